//! A real Postfix as the relay: Debian's, as a private instance on a loopback port that delivers
//! every recipient's mails into one Maildir. Those for `full.example` and `nobody.example` come back
//! to their sender, and so into the same.
//!
//! It is shared by the tests of a process and ends with that. Tests tell their mails apart by the
//! sender's domain, which is in each Message-ID. Postfix wants to be started by root: where the
//! tests don't run as root, `sudo -n` must do.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::mail;
use crate::programs::wait_until;
use crate::system::free_port;
use crate::watchdog;

/// Sets the instance up in the folder `$1`, on port `$2`, with a Maildir that belongs to the user
/// `$3`, and starts it.
const START: &str = r#"
set -e
D=$1
mkdir -p $D/etc $D/queue $D/data $D/mail
chmod 755 $D
chown postfix $D/data
chown $3 $D/mail
# Nothing is chrooted, since nothing was copied into the queue folder; pickup is for local mail,
# which has no right here.
for proto in /etc/postfix/master.cf.proto /usr/share/postfix/master.cf.dist; do
    [ -r $proto ] && break
done
sed -E -e "s/^smtp +inet.*/127.0.0.1:$2 inet n - n - - smtpd/" -e '/^pickup/s/^/#/' \
       -e 's/^([a-z]+ +(unix|unix-dgram) +[^ ]+ +[^ ]+ +)y/\1n/' $proto >$D/etc/master.cf
echo '/./ x' >$D/etc/all
cat >$D/etc/main.cf <<END
compatibility_level = 3.6
queue_directory = $D/queue
data_directory = $D/data
command_directory = /usr/sbin
daemon_directory = $(postconf -d -h daemon_directory)
mail_owner = postfix
setgid_group = postdrop
myhostname = relay.example
mydestination =
inet_interfaces = loopback-only
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_peername_lookup = no
smtpd_client_connection_rate_limit = 0
smtp_dns_support_level = disabled
virtual_mailbox_domains = regexp:$D/etc/all
virtual_mailbox_maps = static:all/
virtual_mailbox_base = $D/mail
virtual_uid_maps = static:$3
virtual_gid_maps = static:$3
virtual_minimum_uid = 1
virtual_mailbox_limit = 0
virtual_alias_maps = inline:{ {@full.example = @full.invalid}, {@nobody.example = @nobody.invalid} }
transport_maps = inline:{ {full.invalid = error:5.2.2 mailbox full},
    {nobody.invalid = error:5.1.1 user unknown} }
message_size_limit = 0
alias_maps =
alias_database =
maillog_file = $D/log
maillog_file_prefixes = /tmp
END
postfix -c $D/etc start
"#;

/// Ends it and removes its folder. `master.pid` is padded with blanks.
const STOP: &str = "pid=$(tr -d \" \" <$D/queue/pid/master.pid 2>/dev/null) && kill -TERM $pid && \
    n=0 && while kill -0 $pid 2>/dev/null && [ $n -lt 50 ]; do sleep 0.1; n=$((n + 1)); done; rm -rf $D";

/// A Postfix at work.
#[derive(Debug)]
pub struct Postfix {
    folder: PathBuf,
    port: u16,
}

impl Postfix {
    /// The one that the tests of this process share, started on first use.
    ///
    /// Panics if it can't be started.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Postfix> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    fn start() -> Self {
        let folder = tempfile::TempDir::with_prefix_in("outbox-mta-", "/tmp")
            .expect("failed to make a folder")
            .keep();
        // Where there is nothing to stop, and so that the folder goes last.
        watchdog::removes(&folder);
        let port = free_port();
        let me = rustix::process::geteuid();
        let sudo = if me.is_root() { "" } else { "sudo -n " };
        watchdog::at_end(&format!(
            "{sudo}sh -c '{STOP}'",
            STOP = STOP.replace("$D", &path(&folder))
        ));
        // virtual(8) delivers as anybody but root.
        let owner = if me.is_root() { 65534 } else { me.as_raw() };
        let mut command = Command::new(if me.is_root() { "sh" } else { "sudo" });
        if !me.is_root() {
            command.args(["-n", "sh"]);
        }
        let started = command
            .args(["-c", START, "outbox-tests-postfix"])
            .args([&path(&folder), &port.to_string(), &owner.to_string()])
            // Where sendmail and postfix are, for users other than root.
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .output()
            .expect(
                "failed to run sh, or sudo, which must start Postfix for users other than root",
            );
        let words = String::from_utf8_lossy(&started.stderr);
        let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
        assert!(started.status.success(), "failed to start Postfix: {words}{log}");
        wait_until("Postfix listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { folder, port }
    }

    /// What goes into `smtp.port`.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The Maildir that it delivers into.
    pub fn mailbox(&self) -> PathBuf {
        self.folder.join("mail/all")
    }

    /// The files of the mails that it delivered and whose Message-ID is of this domain.
    pub fn mails_of(&self, domain: &str) -> Vec<PathBuf> {
        let ending = format!("@{domain}>");
        let mut files: Vec<PathBuf> = std::fs::read_dir(self.mailbox().join("new"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                let bytes = std::fs::read(path).expect("failed to read a mail");
                mail::header(&bytes, "Message-ID").is_some_and(|id| id.ends_with(&ending))
            })
            .collect();
        files.sort();
        files
    }

    /// The same, as soon as there are `count`. Panics if that takes too long.
    #[track_caller]
    pub fn wait_for_mails_of(&self, domain: &str, count: usize) -> Vec<PathBuf> {
        let mut mails = Vec::new();
        wait_until(&format!("{count} mails of {domain} are delivered"), || {
            mails = self.mails_of(domain);
            mails.len() >= count
        });
        assert_eq!(mails.len(), count);
        mails
    }
}

fn path(path: &Path) -> String {
    path.display().to_string()
}
