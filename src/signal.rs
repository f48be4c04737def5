//! Signals become messages.
