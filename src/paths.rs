//! Where everything lies.
