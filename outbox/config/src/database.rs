//! The connection to PostgreSQL.

mod error;
mod session;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use postgres::NoTls;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

use tracing::error;

use crate::{DatabaseSettings, SslMode, tls};

pub use error::Error;
/// What keeps a value from being read.
pub use postgres::Error as ValueError;
pub use postgres::error::SqlState;
pub use postgres::{Column, Row, types};
pub use session::{Client, GiveUp, Silence, Transaction};

/// How long a lock may be waited for.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// What holds in every session, whatever the server, the database or the role has for a default.
///
/// Times are exchanged in UTC. A commit is durable when it returns: a sidecar is removed on the word
/// of a commit, and a ticket given away. Transactions see what others committed meanwhile. One may be
/// idle, while mails are made of what it locked. A policy that hides rows is an error: a hidden
/// directive would be a mail that is never sent, or never marked. And values that are read as text look
/// the same everywhere.
const SETTINGS: &str = "-c timezone=UTC -c synchronous_commit=on \
     -c default_transaction_isolation=read\\ committed -c idle_in_transaction_session_timeout=0 \
     -c row_security=off -c DateStyle=ISO -c IntervalStyle=postgres -c extra_float_digits=1 \
     -c bytea_output=hex";

/// The same for what not every version of PostgreSQL knows, and not every database needs: in the
/// encoding `SQL_ASCII` a text may be anything, and with a conversion the server would refuse all rows
/// for one that is not UTF-8.
const MORE_SETTINGS: &str = "SELECT set_config(name, '0', false) FROM pg_settings
      WHERE name IN ('idle_session_timeout', 'transaction_timeout') AND setting <> '0'
      UNION ALL
     SELECT set_config('client_encoding', setting, false) FROM pg_settings
      WHERE name = 'server_encoding' AND setting = 'SQL_ASCII'";

/// Connects. `application_name` shows in `pg_stat_activity`; a statement that takes longer than
/// `statement_timeout` is ended by the server.
///
/// Over TCP, a server that is not heard of for a minute counts as gone. `silence` is for one that says
/// nothing and is there.
pub fn connect(
    settings: &DatabaseSettings,
    application_name: &str,
    statement_timeout: Duration,
    silence: Silence,
) -> anyhow::Result<Client> {
    let port = settings.port.unwrap_or(5432);
    let mut config = postgres::Config::new();
    config
        .dbname(&settings.name)
        .user(&settings.username)
        .application_name(application_name)
        .port(port)
        .connect_timeout(Duration::from_secs(10))
        .tcp_user_timeout(Duration::from_secs(60))
        .keepalives_idle(Duration::from_secs(30))
        .keepalives_interval(Duration::from_secs(10))
        .keepalives_retries(3)
        .options(&format!(
            "{SETTINGS} -c statement_timeout={} -c lock_timeout={}",
            statement_timeout.as_millis(),
            LOCK_TIMEOUT.as_millis()
        ));
    // A statement first waits for locks, to be understood, and only then begins to take its time.
    let patience = statement_timeout + LOCK_TIMEOUT;
    let host = settings.host.as_deref().filter(|host| !host.is_empty());
    match host {
        Some(host) => config.host(host),
        None => config.host("/var/run/postgresql"),
    };
    if let Some(password) = settings.password()? {
        config.password(password.expose());
    }
    let place = format!(
        "{} at {}, port {port}, as {}",
        settings.name,
        host.unwrap_or("the local socket"),
        settings.username
    );
    // A Unix socket knows no TLS, whatever is asked.
    let local = host.is_none_or(|host| Path::new(host).is_absolute());
    let mode = if local { SslMode::Disable } else { settings.sslmode };
    let connected = if mode == SslMode::Disable {
        let config = config.ssl_mode(postgres::config::SslMode::Disable);
        Client::open(config, NoTls, &place, patience, silence)
    } else {
        config.ssl_mode(match mode {
            SslMode::Prefer => postgres::config::SslMode::Prefer,
            _ => postgres::config::SslMode::Require,
        });
        let tls = MakeRustlsConnect::new(tls_config(mode, settings.sslrootcert.as_deref())?);
        Client::open(&config, tls, &place, patience, silence)
    };
    let set = |mut client: Client| client.query(MORE_SETTINGS, &[]).map(|_| client);
    connected.and_then(set).with_context(|| format!("cannot connect to database {place}"))
}

/// Ends a program whose database said nothing for so long ([`Silence::Ends`]). Nothing is lost by that
/// at any point.
pub fn give_up(place: &str, silent: Duration) -> ! {
    let seconds = silent.as_secs();
    error!("database {place}: the server said nothing for {seconds} seconds: it seems frozen");
    std::process::exit(75)
}

/// A right on a table: its name, a column if one is enough, and the privilege.
pub type Right = (&'static str, Option<&'static str>, &'static str);

/// Of the rights `needed`, those that this connection's role lacks, each as the statement that gives it:
/// a `GRANT`, or what lets it see rows that a policy hides.
pub fn missing_grants(client: &mut Client, needed: &[Right]) -> Result<Vec<String>, Error> {
    let tables: Vec<&str> = needed.iter().map(|right| right.0).collect();
    let columns: Vec<Option<&str>> = needed.iter().map(|right| right.1).collect();
    let privileges: Vec<&str> = needed.iter().map(|right| right.2).collect();
    // To who may not use its schema a table is not there, and nothing can be asked about it.
    let hidden = client.query(
        "SELECT DISTINCT format('GRANT USAGE ON SCHEMA %I TO %I;', nspname, current_user)
           FROM pg_class JOIN pg_namespace AS schema ON schema.oid = relnamespace
          WHERE relname = ANY($1::text[]) AND to_regclass(quote_ident(relname)) IS NULL
            AND NOT has_schema_privilege(schema.oid, 'USAGE')",
        &[&tables],
    )?;
    if !hidden.is_empty() {
        return Ok(hidden.into_iter().map(|row| row.get(0)).collect());
    }
    let rows = client.query(
        "SELECT format('GRANT %s ON %s TO %I;',
                       privilege || CASE WHEN col IS NULL THEN '' ELSE format(' (%I)', col) END,
                       relation, current_user)
           FROM unnest($1::text[], $2::text[], $3::text[]) AS needed (relation, col, privilege)
          WHERE NOT CASE WHEN col IS NULL THEN has_table_privilege(relation, privilege)
                         ELSE has_column_privilege(relation, col, privilege) END",
        &[&tables, &columns, &privileges],
    )?;
    let hiding = client.query(
        "SELECT format('ALTER ROLE %I BYPASSRLS;', current_user)
          WHERE EXISTS (SELECT FROM unnest($1::text[]) AS needed (relation)
                         WHERE row_security_active(relation))",
        &[&tables],
    )?;
    Ok(rows.into_iter().chain(hiding).map(|row| row.get(0)).collect())
}

fn tls_config(mode: SslMode, root: Option<&Path>) -> anyhow::Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .context("cannot set up TLS")?;
    // As in libpq, `require` with an authority named checks the certificate against it.
    let check_authority = matches!(mode, SslMode::VerifyCa | SslMode::VerifyFull) || root.is_some();
    if mode == SslMode::VerifyFull {
        let roots = tls::roots(root)?;
        return Ok(builder.with_root_certificates(roots).with_no_client_auth());
    }
    let authorities = if check_authority {
        let roots = Arc::new(tls::roots(root)?);
        let provider = tls::provider();
        Some(WebPkiServerVerifier::builder_with_provider(roots, provider).build()?)
    } else {
        None
    };
    let verifier = Arc::new(AnyName { authorities });
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// What `prefer`, `require` and `verify-ca` promise: the certificate may be for any name, and,
/// without authorities, by anyone.
#[derive(Debug)]
struct AnyName {
    authorities: Option<Arc<WebPkiServerVerifier>>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(authorities) = &self.authorities else {
            return Ok(ServerCertVerified::assertion());
        };
        let checked = authorities.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match checked {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let supported = tls::provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &supported)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let supported = tls::provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &supported)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        tls::provider().signature_verification_algorithms.supported_schemes()
    }
}
