//! The limits of the wire, and the (de)serialisers that keep them.
//!
//! postcard hands out slices of the input, so a length that exceeds the input is refused before this code sees it;
//! what remains is to refuse what is there but too long, before copying it.

use core::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, DeserializeOwned, SeqAccess, Visitor},
};

/// Longest frame, in bytes, envelope included.
pub const FRAME_LEN_MAX: usize = 64 << 20;
/// Longest field of raw bytes (arguments, results).
pub const BYTES_LEN_MAX: usize = FRAME_LEN_MAX - 4096;
/// Longest text field, in bytes. Longer texts are cut when they are sent.
pub const TEXT_LEN_MAX: usize = 64 << 10;
/// Most elements of a list field.
pub const LIST_COUNT_MAX: usize = 1 << 20;

/// Why bytes from a peer are no frame.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WireError {
    /// The message is longer than its limit.
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The bytes do not decode.
    Malformed {
        /// What was being decoded.
        what: &'static str,
    },
    /// Bytes are left over behind a value.
    Trailing {
        /// How many.
        len: usize,
    },
}

impl fmt::Display for WireError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WireError::TooLong { len, limit } => {
                write!(out, "message of {len} bytes is over the limit of {limit}")
            }
            WireError::Malformed { what } => write!(out, "bytes are not a valid {what}"),
            WireError::Trailing { len } => {
                write!(out, "{len} bytes are left over behind the message")
            }
        }
    }
}

impl core::error::Error for WireError {}

/// Appends `value` to `out`.
pub(crate) fn encode<T: Serialize>(value: &T, out: &mut Vec<u8>) {
    let buffer = core::mem::take(out);
    *out = postcard::to_extend(value, buffer).expect("wire types always encode");
}

/// Decodes the whole of `bytes`.
pub(crate) fn decode<T: DeserializeOwned>(
    bytes: &[u8],
    what: &'static str,
) -> Result<T, WireError> {
    if bytes.len() > FRAME_LEN_MAX {
        return Err(WireError::TooLong { len: bytes.len(), limit: FRAME_LEN_MAX });
    }
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(WireError::Trailing { len: rest.len() }),
        Err(_) => Err(WireError::Malformed { what }),
    }
}

/// `#[serde(with = "bytes")]` for `Vec<u8>`: one copy, bounded.
pub(crate) mod bytes {
    use super::*;

    pub fn serialize<S: Serializer>(value: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(value)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Vec<u8>;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(out, "at most {BYTES_LEN_MAX} bytes")
            }
            fn visit_bytes<E: de::Error>(self, value: &[u8]) -> Result<Vec<u8>, E> {
                if value.len() > BYTES_LEN_MAX {
                    Err(E::invalid_length(value.len(), &self))
                } else {
                    Ok(value.to_vec())
                }
            }
        }
        from.deserialize_bytes(Bytes)
    }
}

/// `#[serde(with = "text")]` for `String`: cut when sent, refused when longer on arrival.
pub(crate) mod text {
    use super::*;

    pub fn serialize<S: Serializer>(value: &str, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&value[..value.floor_char_boundary(TEXT_LEN_MAX)])
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = String;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(out, "at most {TEXT_LEN_MAX} bytes of text")
            }
            fn visit_str<E: de::Error>(self, value: &str) -> Result<String, E> {
                if value.len() > TEXT_LEN_MAX {
                    Err(E::invalid_length(value.len(), &self))
                } else {
                    Ok(value.to_owned())
                }
            }
        }
        from.deserialize_str(Text)
    }
}

/// `#[serde(with = "list")]` for `Vec<T>`: the count is checked before the first element.
pub(crate) mod list {
    use super::*;

    pub fn serialize<T: Serialize, S: Serializer>(value: &[T], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(value)
    }

    pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<T>, D::Error> {
        struct List<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
            type Value = Vec<T>;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(out, "at most {LIST_COUNT_MAX} elements")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
                let count = seq.size_hint().unwrap_or(0);
                if count > LIST_COUNT_MAX {
                    return Err(de::Error::invalid_length(count, &self));
                }
                // A promised count is not yet bytes that are there: start small, grow with what arrives.
                let mut list = Vec::with_capacity(count.min(64));
                while let Some(item) = seq.next_element()? {
                    list.push(item);
                }
                Ok(list)
            }
        }
        from.deserialize_seq(List(PhantomData))
    }
}
