//! `init`: makes the outbox.

use outbox::Outbox;
use outbox_config::program::print;
use outbox_config::{Config, Failure};

/// Makes what is missing of the outbox, and says where it is and what comes next.
pub fn init(config: &Config) -> Result<(), Failure> {
    let path = &config.outbox.path;
    let outbox = match Outbox::open(path) {
        Ok(outbox) => {
            return print(&format!("{}: the outbox is there already\n", outbox.root().display()));
        }
        Err(_) => Outbox::create(path).map_err(Failure::unavailable)?,
    };
    print(&format!(
        "{}: made the outbox, for the user and the group that own it now.\n\
         The users of both programs need to be in this group.\n\
         Next: `outbox-generator check` and `outbox-deliverer check`.\n",
        outbox.root().display()
    ))
}
