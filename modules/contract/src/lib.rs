//! What every module of pc-switcher and its host agree on.
