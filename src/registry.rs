//! The one place that names all modules.
