//! Calls: how the arguments of an entry become bytes and back, and its result.
//!
//! The caller encodes in its own context; the task decodes in its own heap and encodes its result
//! there. Relied on: postcard, whose format is the same in every build with the same types. The
//! traits here are what `#[migratable]` writes against; their texts are what a user reads who gives
//! it a type without serde.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Entry, TakeArguments};
use crate::task::parcel;

/// A type that an argument of a migratable function can have: any that serde can write and read
/// back, without borrows.
///
/// Serde's traits are not supertraits: a compiler that misses them would speak of those and not of
/// this.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an argument of a migratable function",
    label = "`{Self}` must implement `serde::Serialize` and `serde::de::DeserializeOwned`",
    note = "arguments are encoded by the caller and decoded by the task, perhaps on another node",
    note = "for a type of your own write `#[derive(serde::Serialize, serde::Deserialize)]` above it and above the types in it; \
            for a type of another crate turn on that crate's `serde` feature, or pass the plain values that it is made from"
)]
pub trait Argument: Sized + 'static {
    #[doc(hidden)]
    fn __encode(&self, name: &'static str, to: &mut Encoder<'_>) -> Result<(), EntryError>;
    #[doc(hidden)]
    fn __decode(name: &'static str, from: &mut Decoder<'_>) -> Result<Self, EntryError>;
}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned + 'static> Argument for T {
    fn __encode(&self, name: &'static str, to: &mut Encoder<'_>) -> Result<(), EntryError> {
        to.put(self, Part::Argument(name))
    }

    fn __decode(name: &'static str, from: &mut Decoder<'_>) -> Result<Self, EntryError> {
        from.take(Part::Argument(name))
    }
}

/// A type that the result of a migratable function can have: any that serde can write and read
/// back, without borrows.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the result of a migratable function",
    label = "`{Self}` must implement `serde::Serialize` and `serde::de::DeserializeOwned`",
    note = "the result is encoded by the task and decoded by the one who joins it, perhaps on another node",
    note = "for a type of your own write `#[derive(serde::Serialize, serde::Deserialize)]` above it and above the types in it; \
            an error of another crate can be returned as its text, by `map_err(|error| error.to_string())`"
)]
pub trait Output: Sized + 'static {
    #[doc(hidden)]
    fn __encode(&self, to: &mut Encoder<'_>) -> Result<(), EntryError>;

    /// Reads the result of `entry` back from the bytes that its [`Entry::run`] returned.
    #[doc(hidden)]
    fn __decode(entry: &'static str, bytes: &[u8]) -> Result<Self, EntryError>;
}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned + 'static> Output for T {
    fn __encode(&self, to: &mut Encoder<'_>) -> Result<(), EntryError> {
        to.put(self, Part::Output)
    }

    fn __decode(entry: &'static str, bytes: &[u8]) -> Result<Self, EntryError> {
        let decode = |rest: &[u8]| {
            let mut from = Decoder { entry, rest };
            let output = from.take(Part::Output)?;
            from.end().map(|()| output)
        };
        parcel::unpack(bytes, decode, |why| EntryError::of_parcel(entry, "decoded", why))
    }
}

/// A call as `#[migratable]` writes it: an entry and arguments for it.
pub trait Call: Sized + 'static {
    /// What the body returns. It implements [`Output`]; asked in `encode_output`, where the error
    /// is readable.
    type Output: 'static;

    /// The entry that the call starts in.
    const ENTRY: &'static Entry;

    /// Its parcels are in its result again, as they came: they do not end with the call.
    #[doc(hidden)]
    const PASSES_ON: bool = false;

    #[doc(hidden)]
    fn encode_arguments(&self, to: &mut Encoder<'_>) -> Result<(), EntryError>;
    #[doc(hidden)]
    fn decode_arguments(from: &mut Decoder<'_>) -> Result<Self, EntryError>;
    #[doc(hidden)]
    fn encode_output(output: &Self::Output, to: &mut Encoder<'_>) -> Result<(), EntryError>;

    /// Runs the body here and now.
    fn run(self) -> Self::Output;

    /// Appends the encoded arguments to `out`.
    ///
    /// # Errors
    ///
    /// A type's own `Serialize` refused; the error names the argument. `out` then ends with a
    /// partial encoding.
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EntryError> {
        let entry = Self::ENTRY.name;
        let encode = |out: &mut Vec<u8>| self.encode_arguments(&mut Encoder { entry, out });
        parcel::pack(out, encode, |why| EntryError::of_parcel(entry, "encoded", why))
    }

    /// Decodes the arguments.
    ///
    /// # Errors
    ///
    /// The bytes are not the whole arguments of this entry; the error names the argument.
    fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        let entry = Self::ENTRY.name;
        let decode = |rest: &[u8]| {
            let mut from = Decoder { entry, rest };
            let call = Self::decode_arguments(&mut from)?;
            from.end().map(|()| call)
        };
        parcel::unpack(bytes, decode, |why| EntryError::of_parcel(entry, "decoded", why))
    }
}

/// The `run` of the entry of `C`.
///
/// # Errors
///
/// The arguments do not decode or the result does not encode.
pub fn run_entry<C: Call>(take: TakeArguments) -> Result<Vec<u8>, EntryError> {
    let call = take_call::<C>(take)?;
    let output = call.run();
    let mut out = Vec::new();
    let entry = C::ENTRY.name;
    let encode = |out: &mut Vec<u8>| C::encode_output(&output, &mut Encoder { entry, out });
    parcel::pack(&mut out, encode, |why| EntryError::of_parcel(entry, "encoded", why))?;
    parcel::tie_result(&out);
    Ok(out)
}

/// Out of line, so that no word of the argument bytes is left in the frame under the body.
#[inline(never)]
fn take_call<C: Call>(take: TakeArguments) -> Result<C, EntryError> {
    let mut call = None;
    take(&mut |bytes| call = Some(C::decode(bytes)));
    call.expect("the arguments of a task are there when it starts")
}

/// Where arguments or a result are written to.
#[derive(Debug)]
pub struct Encoder<'a> {
    entry: &'static str,
    out: &'a mut Vec<u8>,
}

impl Encoder<'_> {
    fn put<T: Serialize>(&mut self, value: &T, part: Part) -> Result<(), EntryError> {
        postcard::serialize_with_flavor(value, Bytes(self.out)).map_err(|source| EntryError {
            entry: self.entry,
            verb: "encoded",
            part,
            source,
            why: parcel::failed_by(),
        })
    }
}

/// postcard's own growing buffer takes its vector by value and extends it byte by byte.
struct Bytes<'a>(&'a mut Vec<u8>);

impl postcard::ser_flavors::Flavor for Bytes<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Where arguments are read from.
#[derive(Debug)]
pub struct Decoder<'a> {
    entry: &'static str,
    rest: &'a [u8],
}

impl Decoder<'_> {
    fn take<T: DeserializeOwned>(&mut self, part: Part) -> Result<T, EntryError> {
        let (value, rest) =
            postcard::take_from_bytes(self.rest).map_err(|source| self.error(part, source))?;
        self.rest = rest;
        Ok(value)
    }

    fn end(self) -> Result<(), EntryError> {
        match self.rest {
            [] => Ok(()),
            _ => Err(self.error(Part::End, postcard::Error::DeserializeBadEncoding)),
        }
    }

    fn error(&self, part: Part, source: postcard::Error) -> EntryError {
        EntryError { entry: self.entry, verb: "decoded", part, source, why: parcel::failed_by() }
    }
}

/// An argument or a result that could not be encoded or decoded.
#[derive(Debug, Clone)]
pub struct EntryError {
    entry: &'static str,
    verb: &'static str,
    part: Part,
    source: postcard::Error,
    /// What a parcel has to say about it.
    why: Option<String>,
}

#[derive(Debug, Clone, Copy)]
enum Part {
    Argument(&'static str),
    Output,
    Parcel,
    End,
}

impl EntryError {
    /// Whether it is a parcel that could not be had, not a matter of encoding.
    pub(crate) fn is_of_parcel(&self) -> bool {
        matches!(self.part, Part::Parcel)
    }

    fn of_parcel(entry: &'static str, verb: &'static str, why: String) -> EntryError {
        let source = match verb {
            "encoded" => postcard::Error::SerializeBufferFull,
            _ => postcard::Error::DeserializeBadEncoding,
        };
        EntryError { entry, verb, part: Part::Parcel, source, why: Some(why) }
    }

    /// The entry whose argument or result it is.
    pub fn entry(&self) -> &'static str {
        self.entry
    }
}

impl fmt::Display for EntryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let EntryError { entry, verb, part, source, why } = self;
        let source: &dyn fmt::Display = why.as_ref().map_or(source, |why| why);
        match part {
            Part::Parcel => {
                write!(f, "a parcel in a message of `{entry}` could not be {verb}: {source}")
            }
            Part::Argument(name) => {
                write!(f, "argument `{name}` of `{entry}` could not be {verb}: {source}")
            }
            Part::Output => write!(f, "the result of `{entry}` could not be {verb}: {source}"),
            Part::End => {
                write!(f, "what came for `{entry}` is followed by bytes that belong to nothing")
            }
        }
    }
}

impl std::error::Error for EntryError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sum {
        left: u64,
        right: String,
    }

    impl Call for Sum {
        type Output = u64;
        const ENTRY: &'static Entry = &Entry::new("test::sum", "here", 1, run_entry::<Sum>);

        fn encode_arguments(&self, to: &mut Encoder<'_>) -> Result<(), EntryError> {
            Argument::__encode(&self.left, "left", to)?;
            Argument::__encode(&self.right, "right", to)
        }

        fn decode_arguments(from: &mut Decoder<'_>) -> Result<Self, EntryError> {
            Ok(Sum {
                left: Argument::__decode("left", from)?,
                right: Argument::__decode("right", from)?,
            })
        }

        fn encode_output(output: &u64, to: &mut Encoder<'_>) -> Result<(), EntryError> {
            Output::__encode(output, to)
        }

        fn run(self) -> u64 {
            self.left + self.right.parse::<u64>().expect("a number")
        }
    }

    fn encoded() -> Vec<u8> {
        let mut out = Vec::new();
        Sum { left: 40, right: "2".into() }.encode(&mut out).unwrap();
        out
    }

    #[test]
    fn a_call_runs_from_its_bytes() {
        let out = (Sum::ENTRY.run)(|visit| visit(&encoded())).unwrap();
        assert_eq!(<u64 as Output>::__decode(Sum::ENTRY.name, &out).unwrap(), 42);
    }

    #[test]
    fn bad_bytes_are_refused_by_the_arguments_name() {
        let run = Sum::ENTRY.run;
        let short = run(|visit| visit(&encoded()[..2])).unwrap_err();
        assert!(
            short.to_string().starts_with("argument `right` of `test::sum` could not be decoded"),
            "{short}"
        );
        let long = run(|visit| visit(&[encoded(), vec![0]].concat())).unwrap_err();
        assert!(long.to_string().contains("belong to nothing"), "{long}");
    }
}
