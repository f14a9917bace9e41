//! What the end-to-end tests share: real servers, each private to a test process and gone with it.
//!
//! | module | gives |
//! | --- | --- |
//! | [`postgres_cluster`] | a PostgreSQL cluster, shared, or private where a test stops it |
//! | [`database`] | a database of its own for a test, with the project's schema in it |
//! | [`database_proxy`] | breaks the connection to it at a chosen request |
//! | [`service_manager`] | systemd as a service sees it: what the service says of itself, and when |
//! | [`site`] | an installation: database, key, outbox, configuration, and the two programs on it |
//! | [`mod@programs`] | the two programs as processes, with time limits and what they logged |
//! | [`events`] | events with directives, as few words as a test needs |
//! | [`gnupg`] | a GnuPG home with a key: good, expired, protected, none |
//! | [`postfix`] | Debian's Postfix as a relay that delivers everything into a Maildir |
//! | [`authority`] | certificates for the relay: good, expired, of another name |
//! | [`scripted_relay`] | a relay that misbehaves as told, and keeps what it got |
//! | [`mail`] | Python's `email` and `gpg` as readers of mails |
//! | [`messages`] | the messages in the source of the two programs |
//! | [`mutt`] | the real mutt on an outbox, in a terminal of its own |
//! | [`random`] | random moments that a seed repeats |
//! | [`terminal`] | a program in a terminal, in which keys are pressed and the screen is read |
//! | [`small_disk`] | a file system that is soon full, and can be made read-only |
//! | [`system`] | a free port, a copied folder |
//! | [`trace`] | recorded runs: their order, and what a crash of the machine could leave of them |
//! | [`tracer`] | the two programs, killed at a system call, or with one that fails |
//! | [`unprivileged`](mod@unprivileged) | the two programs without root's rights |
//! | [`watchdog`] | the end of all servers, however a test process ends |

pub mod authority;
pub mod database;
pub mod database_proxy;
pub mod events;
pub mod gnupg;
pub mod mail;
pub mod messages;
pub mod mutt;
pub mod postfix;
pub mod postgres_cluster;
pub mod programs;
pub mod random;
pub mod scripted_relay;
pub mod service_manager;
pub mod site;
pub mod small_disk;
pub mod system;
pub mod terminal;
pub mod trace;
pub mod tracer;
pub mod unprivileged;
pub mod watchdog;

pub use database::Database;
pub use postgres_cluster::Cluster;
