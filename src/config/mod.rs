//! The config file: layers, schema check, typed result.
