//! Modules that only exercise the host: tests and template.
