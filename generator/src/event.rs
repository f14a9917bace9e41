//! An event as loaded from the database, and the text in which recipients see its values.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use jiff::Timestamp;
use outbox_config::database::types::{FromSql, Kind, Type};
use serde::Serialize;
use serde_json::Number;

use crate::column::Field;
use crate::group::EventId;

/// Some columns of one row of the table `events`.
///
/// The names are shared by all events of a query, so that an event costs its values alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The row's key.
    pub id: EventId,
    columns: Arc<[String]>,
    values: Vec<Value>,
}

impl Event {
    /// An event whose `values` stand in the order of `columns`.
    ///
    /// Panics if there are more of the one than of the other: the query is wrong then.
    pub fn new(id: EventId, columns: Arc<[String]>, values: Vec<Value>) -> Self {
        assert_eq!(columns.len(), values.len(), "a value for each column of event {id}");
        Self { id, columns, values }
    }

    /// What the event has in `field`; `None` if the column was not loaded.
    ///
    /// A key that `extra` doesn't have is null, as is every key where `extra` is no object.
    pub fn field<'e>(&'e self, field: &'e Field) -> Option<Cell<'e>> {
        match field {
            Field::Given(values) => {
                Some(values.get(&self.id).map_or(Cell::NULL, |text| Cell::Given(text)))
            }
            Field::Event(name) => self.column(name).map(Cell::Column),
            Field::Extra(key) => Some(match self.column("extra")? {
                Value::Json(extra) => extra.get(key).map_or(Cell::NULL, Cell::Json),
                _ => Cell::NULL,
            }),
        }
    }

    /// The columns that were loaded, with their values.
    pub fn columns(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.columns.iter().map(String::as_str).zip(&self.values)
    }

    fn column(&self, name: &str) -> Option<&Value> {
        let index = self.columns.iter().position(|column| column == name)?;
        self.values.get(index)
    }
}

/// A value of a column. Types that are not listed are for the query to cast to text.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// SQL's NULL.
    Null,
    /// Any string, an enum's label, and in a column of times `infinity`, `-infinity` or a time behind
    /// the year 9999.
    Text(String),
    /// An integer of any width.
    Integer(i64),
    /// A `real`.
    Real(f32),
    /// A `double precision`.
    Double(f64),
    /// A boolean.
    Boolean(bool),
    /// A `timestamptz`, to the microsecond.
    Time(Timestamp),
    /// An `inet` or `cidr`.
    Inet(Inet),
    /// A `json` or `jsonb`, numbers with all of their digits.
    Json(serde_json::Value),
}

/// An address, or a network: an address with a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inet {
    /// The address, host bits included.
    pub address: IpAddr,
    /// Length of the network's prefix in bits.
    pub prefix: u8,
    /// Whether the column's type is `cidr`, which shows the prefix of single addresses too.
    pub cidr: bool,
}

/// A field's value where it stands in an event.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cell<'e> {
    /// The value of a column.
    Column(&'e Value),
    /// The value of a key in the column `extra`.
    Json(&'e serde_json::Value),
    /// A text that a script gave.
    Given(&'e str),
}

impl Cell<'_> {
    /// No value.
    pub const NULL: Cell<'static> = Cell::Column(&Value::Null);
}

impl<'a> FromSql<'a> for Value {
    fn from_sql(column_type: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        let base = base_type(column_type);
        Ok(match *base {
            Type::BOOL => Self::Boolean(bool::from_sql(base, raw)?),
            Type::INT2 => Self::Integer(i16::from_sql(base, raw)?.into()),
            Type::INT4 => Self::Integer(i32::from_sql(base, raw)?.into()),
            Type::INT8 => Self::Integer(i64::from_sql(base, raw)?),
            Type::FLOAT4 => Self::Real(f32::from_sql(base, raw)?),
            Type::FLOAT8 => Self::Double(f64::from_sql(base, raw)?),
            Type::TIMESTAMPTZ => time(i64::from_sql(base, raw)?),
            Type::INET | Type::CIDR => Self::Inet(inet(raw).ok_or("not an address")?),
            Type::JSON | Type::JSONB => Self::Json(FromSql::from_sql(base, raw)?),
            _ => Self::Text(str::from_utf8(raw)?.to_owned()),
        })
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self::Null)
    }

    fn accepts(column_type: &Type) -> bool {
        let base = base_type(column_type);
        matches!(base.kind(), Kind::Enum(_))
            || matches!(
                *base,
                Type::BOOL
                    | Type::INT2
                    | Type::INT4
                    | Type::INT8
                    | Type::FLOAT4
                    | Type::FLOAT8
                    | Type::TIMESTAMPTZ
                    | Type::INET
                    | Type::CIDR
                    | Type::JSON
                    | Type::JSONB
                    | Type::TEXT
                    | Type::VARCHAR
                    | Type::BPCHAR
                    | Type::NAME
                    | Type::UNKNOWN
            )
    }
}

/// The type that a domain (`CREATE DOMAIN`) is made from, or the type itself.
fn base_type(column_type: &Type) -> &Type {
    match column_type.kind() {
        Kind::Domain(inner) => base_type(inner),
        _ => column_type,
    }
}

/// Reads PostgreSQL's microseconds since 2000-01-01, whose ends of the range mean infinity.
fn time(microseconds: i64) -> Value {
    const EPOCH: i64 = 946_684_800_000_000;
    let known = microseconds.checked_add(EPOCH).map(Timestamp::from_microsecond);
    match microseconds {
        i64::MAX => Value::Text("infinity".into()),
        i64::MIN => Value::Text("-infinity".into()),
        _ => match known {
            Some(Ok(time)) => Value::Time(time),
            _ => Value::Text(far_time(microseconds)),
        },
    }
}

/// A time that [`Timestamp`] has no place for, in the form of those that it has: it ends with the year
/// 9999, whose last day many write for "never", and PostgreSQL with 294276. It begins before
/// PostgreSQL does.
fn far_time(microseconds: i64) -> String {
    const DAY: i64 = 86_400_000_000;
    let (days, time) = (microseconds.div_euclid(DAY), microseconds.rem_euclid(DAY));
    // Counted from 2000-03-01: what is odd about the calendar is at the end of years, centuries and
    // eras of 400 years then.
    let days = days - 60;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = match month {
        0..10 => (year, month + 3),
        _ => (year + 1, month - 9),
    };
    let year = 2000 + 400 * era + year;
    let (seconds, micros) = (time / 1_000_000, time % 1_000_000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let fraction = if micros == 0 { String::new() } else { format!(".{micros:06}") };
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}{fraction}+00:00")
}

/// Reads PostgreSQL's binary form: family (2 or 3), prefix, whether cidr, length, address.
fn inet(raw: &[u8]) -> Option<Inet> {
    let (&[_family, prefix, cidr, _length], address) = raw.split_first_chunk()?;
    let address = if let Ok(bytes) = <[u8; 4]>::try_from(address) {
        IpAddr::from(bytes)
    } else {
        IpAddr::from(<[u8; 16]>::try_from(address).ok()?)
    };
    Some(Inet { address, prefix, cidr: cidr != 0 })
}

/// A cell as Mailgen prints it: Python's `str()` of what psycopg2 makes of the value.
impl fmt::Display for Cell<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cell::Column(value) => value.fmt(f),
            Cell::Json(json) => write_json(json, f),
            Cell::Given(text) => f.write_str(text),
        }
    }
}

impl Value {
    /// The value in JSON: times as in RFC 3339, addresses as text. Floats have the digits that
    /// everyone sees, `nan` and `inf` are the texts they can only be.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Text(text) => text.as_str().into(),
            Self::Integer(number) => (*number).into(),
            Self::Real(_) | Self::Double(_) => {
                let digits = self.to_string();
                serde_json::from_str(&digits).unwrap_or(serde_json::Value::String(digits))
            }
            Self::Boolean(truth) => (*truth).into(),
            Self::Time(time) => time.to_string().into(),
            Self::Inet(inet) => inet.to_string().into(),
            Self::Json(json) => json.clone(),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => Ok(()),
            Self::Text(text) => f.write_str(text),
            Self::Integer(number) => number.fmt(f),
            Self::Real(number) => write_float(widen(*number), f),
            Self::Double(number) => write_float(*number, f),
            Self::Boolean(truth) => write_bool(*truth, f),
            Self::Time(time) if time.subsec_nanosecond() == 0 => {
                time.strftime("%Y-%m-%d %H:%M:%S+00:00").fmt(f)
            }
            Self::Time(time) => time.strftime("%Y-%m-%d %H:%M:%S%.6f+00:00").fmt(f),
            Self::Inet(inet) => inet.fmt(f),
            Self::Json(json) => write_json(json, f),
        }
    }
}

/// As PostgreSQL prints it.
impl fmt::Display for Inet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = match self.address {
            IpAddr::V4(address) => {
                address.fmt(f)?;
                32
            }
            IpAddr::V6(address) => {
                // Rust and PostgreSQL agree but for the "IPv4-compatible" addresses of RFC 4291,
                // 2.5.5.1, whose last half is dotted in PostgreSQL alone.
                match address.segments() {
                    [0, 0, 0, 0, 0, 0, high, low] if high != 0 => {
                        let dotted = u32::from(high) << 16 | u32::from(low);
                        write!(f, "::{}", Ipv4Addr::from(dotted))?;
                    }
                    _ => Ipv6Addr::fmt(&address, f)?,
                }
                128
            }
        };
        if self.prefix == bits && !self.cidr {
            return Ok(());
        }
        write!(f, "/{}", self.prefix)
    }
}

fn write_bool(truth: bool, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str(if truth { "True" } else { "False" })
}

/// The double of the digits in which PostgreSQL prints a `real`, for that is what psycopg2 reads.
///
/// Those are the fewest digits that lie nearer to this `real` than to any other. Rust's own
/// shortest form also takes a decimal that lies half-way, where that would be read back right
/// (33554448 as 33554450), and of two that are as near the upper one (1861445.25 as 1861445.3).
/// In a million values, and all powers of two, only 2^-96, 2^87 and 2^90 come out with a digit more
/// than PostgreSQL 15 gives them.
fn widen(number: f32) -> f64 {
    let exact = f64::from(number);
    // Above the greatest real stands, for rounding, the power of two that would come next.
    let limit = 2_f64.powi(128);
    let between = |other: f32| f64::midpoint(exact, f64::from(other).clamp(-limit, limit));
    let (low, high) = (between(number.next_down()), between(number.next_up()));
    (0..=8)
        .filter_map(|digits| format!("{number:.digits$e}").parse().ok())
        .find(|short: &f64| low < *short && *short < high)
        .unwrap_or(exact)
}

/// Python's `repr` of a float: the fewest digits that read back as the same, with an exponent
/// where it is below -4 or above 15.
fn write_float(number: f64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if number.is_nan() {
        return f.write_str("nan");
    }
    let magnitude = number.abs();
    if number.is_finite() && number != 0.0 && !(1e-4..1e16).contains(&magnitude) {
        let digits = format!("{number:e}");
        let (mantissa, exponent) = digits.split_once('e').expect("the format has an exponent");
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(exponent) => ('-', exponent),
            None => ('+', exponent),
        };
        return write!(f, "{mantissa}e{sign}{exponent:0>2}");
    }
    // Debug prints "1.0" where Display prints "1"; it has an exponent only outside of this range.
    write!(f, "{number:?}")
}

/// A JSON number: whole ones with all of their digits, others as Python's float of them.
fn write_number(number: &Number, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match number.as_str() {
        "-0" => f.write_str("0"),
        text if !text.contains(['.', 'e', 'E']) => f.write_str(text),
        text => write_float(text.parse().map_err(|_| fmt::Error)?, f),
    }
}

/// Strings without quotes, null as nothing. Lists and objects, for which Mailgen prints Python
/// source, are JSON.
fn write_json(json: &serde_json::Value, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match json {
        serde_json::Value::Null => Ok(()),
        serde_json::Value::Bool(truth) => write_bool(*truth, f),
        serde_json::Value::Number(number) => write_number(number, f),
        serde_json::Value::String(text) => f.write_str(text),
        serde_json::Value::Array(_) | serde_json::Value::Object(_) => {
            let mut serializer = serde_json::Serializer::with_formatter(Utf8(f), Spaced);
            json.serialize(&mut serializer).map_err(|_| fmt::Error)
        }
    }
}

/// JSON with a space behind comma and colon, as PostgreSQL and Python write it.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

/// Lets `serde_json`, which writes bytes but never a part of a character, write text.
struct Utf8<'a, 'f>(&'a mut fmt::Formatter<'f>);

impl io::Write for Utf8<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = str::from_utf8(bytes).map_err(io::Error::other)?;
        self.0.write_str(text).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn column(column_type: &Type, raw: &[u8]) -> String {
        assert!(Value::accepts(column_type), "{column_type}");
        Cell::Column(&Value::from_sql(column_type, raw).unwrap()).to_string()
    }

    fn double(number: f64) -> String {
        Value::Double(number).to_string()
    }

    fn real(number: f32) -> String {
        Value::Real(number).to_string()
    }

    fn json(text: &str) -> String {
        Cell::Json(&serde_json::from_str(text).unwrap()).to_string()
    }

    #[test]
    fn integers_of_every_width_come_out_whole() {
        assert_eq!(column(&Type::INT2, &(-7_i16).to_be_bytes()), "-7");
        assert_eq!(column(&Type::INT4, &i32::MAX.to_be_bytes()), "2147483647");
        assert_eq!(column(&Type::INT8, &4_200_393_735_i64.to_be_bytes()), "4200393735");
    }

    #[test]
    fn doubles_look_as_python_prints_them() {
        for (number, text) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (100.0, "100.0"),
            (0.1 + 0.2, "0.30000000000000004"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (-1.5e-7, "-1.5e-07"),
            (9_999_999_999_999_998.0, "9999999999999998.0"),
            (1e16, "1e+16"),
            (1.25e22, "1.25e+22"),
            (1.797_693_134_862_315_7e308, "1.7976931348623157e+308"),
            (5e-324, "5e-324"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (-f64::NAN, "nan"),
        ] {
            assert_eq!(double(number), text);
        }
        assert_eq!(column(&Type::FLOAT8, &52.5_f64.to_be_bytes()), "52.5");
    }

    #[test]
    fn a_real_is_the_double_of_the_digits_postgresql_prints() {
        for (number, text) in [
            (100.0, "100.0"),
            (52.516_7, "52.5167"),
            (0.1, "0.1"),
            (16_777_216.0, "16777216.0"),
            (33_554_448.0, "33554448.0"),
            (1_861_445.2, "1861445.2"),
            (1e-5, "1e-05"),
            (f32::MAX, "3.4028235e+38"),
            (f32::from_bits(1), "1e-45"),
            (f32::INFINITY, "inf"),
            (f32::NEG_INFINITY, "-inf"),
            (f32::NAN, "nan"),
            (0.0, "0.0"),
            (-0.0, "-0.0"),
        ] {
            assert_eq!(real(number), text);
        }
        assert_eq!(column(&Type::FLOAT4, &13.4_f32.to_be_bytes()), "13.4");
    }

    #[test]
    fn times_are_utc_and_have_a_fraction_only_where_there_is_one() {
        let at = |microseconds: i64| column(&Type::TIMESTAMPTZ, &microseconds.to_be_bytes());
        assert_eq!(at(0), "2000-01-01 00:00:00+00:00");
        assert_eq!(at(1), "2000-01-01 00:00:00.000001+00:00");
        assert_eq!(at(120_000), "2000-01-01 00:00:00.120000+00:00");
        assert_eq!(at(-1), "1999-12-31 23:59:59.999999+00:00");
        assert_eq!(at(-946_684_800_000_001), "1969-12-31 23:59:59.999999+00:00");
        assert_eq!(at(-62_072_092_800_000_000), "0033-01-05 00:00:00+00:00");
    }

    #[test]
    fn an_infinite_time_is_told_and_so_is_one_that_no_clock_will_show() {
        for (microseconds, text) in [
            (i64::MAX, "infinity"),
            (i64::MIN, "-infinity"),
            (252_455_615_999_000_000, "9999-12-31 23:59:59+00:00"),
            (252_455_616_000_000_000, "10000-01-01 00:00:00+00:00"),
            (252_460_713_600_000_001, "10000-02-29 00:00:00.000001+00:00"),
            (252_460_800_000_000_000, "10000-03-01 00:00:00+00:00"),
            // The last one in PostgreSQL.
            (9_223_371_331_199_999_999, "294276-12-31 23:59:59.999999+00:00"),
        ] {
            let time = Value::from_sql(&Type::TIMESTAMPTZ, &microseconds.to_be_bytes()).unwrap();
            assert_eq!(time, Value::Text(text.into()));
        }
    }

    #[test]
    fn addresses_and_networks_look_as_postgresql_prints_them() {
        let v4 = |raw: [u8; 8]| column(&Type::INET, &raw);
        assert_eq!(v4([2, 32, 0, 4, 192, 0, 2, 7]), "192.0.2.7");
        assert_eq!(v4([2, 24, 0, 4, 192, 0, 2, 0]), "192.0.2.0/24");
        assert_eq!(column(&Type::CIDR, &[2, 32, 1, 4, 192, 0, 2, 7]), "192.0.2.7/32");

        let v6 = |text: &str, prefix| {
            let mut raw = vec![3, prefix, 0, 16];
            raw.extend(text.parse::<Ipv6Addr>().unwrap().octets());
            column(&Type::INET, &raw)
        };
        for (text, shown) in [
            ("2001:db8::1", "2001:db8::1"),
            ("2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"),
            ("2001:0:0:1:0:0:0:1", "2001:0:0:1::1"),
            ("::", "::"),
            ("::1", "::1"),
            ("::ffff", "::ffff"),
            ("::192.0.2.1", "::192.0.2.1"),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.1"),
            ("::ffff:0:0", "::ffff:0.0.0.0"),
            ("64:ff9b::192.0.2.1", "64:ff9b::c000:201"),
        ] {
            assert_eq!(v6(text, 128), shown);
        }
        assert_eq!(v6("2001:db8::", 32), "2001:db8::/32");
        assert!(Value::from_sql(&Type::INET, &[2, 32, 0]).is_err());
        assert!(Value::from_sql(&Type::INET, &[2, 32, 0, 4, 1]).is_err());
    }

    #[test]
    fn text_enums_and_domains_are_taken() {
        let severity =
            Type::new("severity".into(), 1, Kind::Enum(vec!["low".into()]), "public".into());
        let domain = |inner| Type::new("asn".into(), 2, Kind::Domain(inner), "public".into());
        assert_eq!(column(&severity, b"low"), "low");
        assert_eq!(column(&Type::VARCHAR, "Grüße".as_bytes()), "Grüße");
        assert_eq!(column(&domain(Type::INT4), &7_i32.to_be_bytes()), "7");
        assert_eq!(column(&domain(Type::JSONB), b"\x01[1]"), "[1]");
        assert_eq!(column(&Type::BOOL, &[1]), "True");
        assert!(!Value::accepts(&Type::NUMERIC), "for the query to cast");
        assert_eq!(Value::from_sql_null(&Type::TEXT).unwrap(), Value::Null);
    }

    #[test]
    fn json_numbers_keep_their_digits_or_look_as_python_prints_a_float() {
        assert_eq!(json("123456789012345678901234567890"), "123456789012345678901234567890");
        assert_eq!(json("-0"), "0");
        assert_eq!(json("1.10"), "1.1");
        assert_eq!(json("1e2"), "100.0");
        assert_eq!(json("1E16"), "1e+16");
        assert_eq!(json("1e400"), "inf");
    }

    #[test]
    fn json_strings_are_bare_and_lists_and_objects_json() {
        assert_eq!(json(r#""a \"b\"\nc""#), "a \"b\"\nc");
        assert_eq!(json("null"), "");
        assert_eq!(json("true"), "True");
        assert_eq!(json("false"), "False");
        assert_eq!(
            json(r#"{"b":[1,"ü",null,true,1.50,[]],"a":{}}"#),
            r#"{"a": {}, "b": [1, "ü", null, true, 1.50, []]}"#
        );
    }

    #[test]
    fn fields_are_found_in_columns_and_in_extra() {
        let columns: Arc<[String]> = Arc::new(["source.asn".into(), "extra".into()]);
        let event =
            |extra| Event::new(EventId(1), columns.clone(), vec![Value::Integer(64496), extra]);
        let text = |event: &Event, name| event.field(&Field::parse(name)).map(|c| c.to_string());

        let full = event(Value::Json(json!({"tag": "snmp", "a.b": 1})));
        assert_eq!(text(&full, "source.asn").unwrap(), "64496");
        assert_eq!(text(&full, "extra.tag").unwrap(), "snmp");
        assert_eq!(text(&full, "extra.a.b").unwrap(), "1");
        assert_eq!(text(&full, "extra.missing").unwrap(), "");
        assert_eq!(text(&full, "source.ip"), None, "not loaded");
        for odd in [Value::Null, Value::Json(json!(["tag"])), Value::Json(json!("tag"))] {
            assert_eq!(text(&event(odd), "extra.tag").unwrap(), "");
        }
    }
}
