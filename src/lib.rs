//! pc-switcher moves a person from one Linux machine to another.
