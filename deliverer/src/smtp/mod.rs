//! SMTP, as far as the deliverer speaks it.
