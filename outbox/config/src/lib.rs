//! The configuration file that both programs read, and what is set up straight from it: the log,
//! the connection to PostgreSQL, a program's beginning and end, and how it shows text.
//!
//! The file is that of IntelMQ Mailgen, with sections of our own. docs/configuration.md tells
//! every key.

pub mod database;
mod duration;
mod failure;
mod file;
pub mod logging;
#[cfg(any(test, fuzzing))]
pub mod oracles;
pub mod program;
pub mod progress;
mod rate;
mod room;
mod secret;
mod settings;
mod size;
pub mod text;
pub mod tls;

pub use duration::{duration_words, parse_duration};
pub use failure::Failure;
pub use file::ConfigError;
pub use rate::Rate;
pub use room::TooLittleRoom;
pub use secret::Secret;
pub use settings::{
    Config, DatabaseSettings, DeliverySettings, Encrypt, EncryptFor, MetricsSettings, OnException,
    OpenPgpSettings, OutboxSettings, ReviewSettings, ScriptSettings, ShardSettings, SmtpSettings,
    SmtpTimeouts, SmtpTls, SslMode, Uncertain, XarfSettings,
};
pub use size::{parse_size, size_words};
