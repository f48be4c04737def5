//! One numbered event stream; log file, screen, history and JSON read it.
