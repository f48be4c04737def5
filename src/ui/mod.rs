//! Everything a person sees: plain lines, bars, questions.
