//! What the end-to-end tests share: real servers, each private to a test process and gone with it.
//!
//! | module | gives |
//! | --- | --- |
//! | [`postgres_cluster`] | a PostgreSQL cluster: shared by the tests of a process, or private where one stops or kills it |
//! | [`database`] | a database of its own for a test, with the project's schema in it |

pub mod database;
pub mod events;
pub mod gnupg;
pub mod mail;
pub mod postfix;
pub mod postgres_cluster;
pub mod programs;
pub mod random;
pub mod scripted_relay;
pub mod site;
pub mod watchdog;

pub use database::Database;
pub use postgres_cluster::Cluster;
