//! Compressed attachments.

use std::io::{self, Cursor, Write as _};

use flate2::GzBuilder;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use zip::write::{SimpleFileOptions, ZipWriter};

use crate::formats::Compression;

/// The largest deflate makes is worth its time: what is packed is large, and goes over the wire.
const LEVEL: u32 = 9;

/// A file that has another in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Its name.
    pub name: String,
    /// Its MIME type.
    pub content_type: &'static str,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// Packs a file with this `name`, last changed `at` that time. The same file gives the same bytes.
pub fn pack(how: Compression, name: &str, bytes: &[u8], at: Timestamp) -> io::Result<Packed> {
    match how {
        Compression::Gzip => {
            let mtime = u32::try_from(at.as_second()).unwrap_or(0);
            let level = flate2::Compression::new(LEVEL);
            let mut gzip = GzBuilder::new().filename(name).mtime(mtime).write(Vec::new(), level);
            gzip.write_all(bytes)?;
            Ok(Packed {
                name: format!("{name}.gz"),
                content_type: "application/gzip",
                bytes: gzip.finish()?,
            })
        }
        Compression::Zip => {
            let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
            let options = SimpleFileOptions::default()
                .compression_method(zip::CompressionMethod::Deflated)
                .compression_level(Some(LEVEL.into()))
                .last_modified_time(dos_time(at));
            zip.start_file(name, options)?;
            zip.write_all(bytes)?;
            let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
            Ok(Packed {
                name: format!("{stem}.zip"),
                content_type: "application/zip",
                bytes: zip.finish()?.into_inner(),
            })
        }
    }
}

/// The time in the form that zip has had since MS-DOS, in UTC; its first one where it has none.
fn dos_time(at: Timestamp) -> zip::DateTime {
    let at = at.to_zoned(TimeZone::UTC);
    let [month, day, hour, minute, second] =
        [at.month(), at.day(), at.hour(), at.minute(), at.second()].map(i8::unsigned_abs);
    let year = at.year().unsigned_abs();
    zip::DateTime::from_date_and_time(year, month, day, hour, minute, second).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const CSV: &str = "\"asn\",\"ip\"\r\n\"64496\",\"192.0.2.1\"\r\n";

    /// What Python finds in a packed file: the name in it, and the content.
    fn judge(packed: &Packed, program: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(&packed.name);
        std::fs::write(&path, &packed.bytes).unwrap();
        let out = Command::new("python3").args(["-c", program]).arg(&path).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    #[test]
    fn others_read_what_was_packed() {
        let at = "2026-11-25T06:07:08Z".parse().unwrap();
        let zip = pack(Compression::Zip, "events.csv", CSV.as_bytes(), at).unwrap();
        assert_eq!((zip.name.as_str(), zip.content_type), ("events.zip", "application/zip"));
        let program = "import sys, zipfile; z = zipfile.ZipFile(sys.argv[1]); assert z.testzip() is None; \
                       i, = z.infolist(); sys.stdout.write(repr((i.filename, i.date_time, z.read(i))))";
        let expected = "('events.csv', (2026, 11, 25, 6, 7, 8), b'\"asn\",\"ip\"\\r\\n\"64496\",\"192.0.2.1\"\\r\\n')";
        assert_eq!(judge(&zip, program), expected);

        let gzip = pack(Compression::Gzip, "events.csv", CSV.as_bytes(), at).unwrap();
        assert_eq!((gzip.name.as_str(), gzip.content_type), ("events.csv.gz", "application/gzip"));
        let program = "import sys, gzip; f = gzip.open(sys.argv[1]); d = f.read(); \
                       sys.stdout.write(repr((f.mtime, d)))";
        let expected = "(1795586828, b'\"asn\",\"ip\"\\r\\n\"64496\",\"192.0.2.1\"\\r\\n')";
        assert_eq!(judge(&gzip, program), expected);
    }

    #[test]
    fn the_same_file_gives_the_same_bytes_and_a_large_one_fewer() {
        let at = Timestamp::UNIX_EPOCH;
        let csv = CSV.repeat(10_000);
        for how in [Compression::Zip, Compression::Gzip] {
            let packed = pack(how, "events.csv", csv.as_bytes(), at).unwrap();
            assert!(packed.bytes.len() < csv.len() / 50, "{}", packed.bytes.len());
            assert_eq!(pack(how, "events.csv", csv.as_bytes(), at).unwrap(), packed);
        }
    }
}
