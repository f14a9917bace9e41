//! Maps of a JSON file in which no key stands twice. serde refuses a field that does, but of a map's keys
//! the last would count: a recipient could be accepted and deferred in the same record.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

/// Reads a map, for `#[serde(deserialize_with)]`.
pub(crate) fn each_key_once<'de, D, V>(deserializer: D) -> Result<BTreeMap<String, V>, D::Error>
where
    D: Deserializer<'de>,
    V: Deserialize<'de>,
{
    struct Keys<V>(PhantomData<V>);

    impl<'de, V: Deserialize<'de>> Visitor<'de> for Keys<V> {
        type Value = BTreeMap<String, V>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
            let mut map = BTreeMap::new();
            while let Some((key, value)) = entries.next_entry::<String, V>()? {
                if let Some(twice) = map.insert(key.clone(), value).map(|_| key) {
                    return Err(A::Error::custom(format_args!("{twice:?} stands there twice")));
                }
            }
            Ok(map)
        }
    }

    deserializer.deserialize_map(Keys(PhantomData))
}
