//! Internal to `migrt`: the two attributes, `#[migrt::migratable]` and `#[migrt::main]`.
//!
//! `migratable` turns a function into three things: a builder of the same name, a *call type* that
//! the builder returns, and an *entry* in the program's table. `main` puts the runtime around the
//! program's `main`. Both only write code; what they write speaks to `migrt::__private` alone, so
//! that crate can change behind them. They rely on nothing but the text of the function: whether a
//! type can be encoded is asked of the compiler (`migrt::Argument`, `migrt::Output`), not guessed.
//! Absent on purpose: methods and generic functions, for which there is no one entry to register.

use proc_macro::TokenStream;

mod builder;
mod main_fn;
mod options;
mod poll;
mod refuse;

/// Makes a function the start of a mobile task.
///
/// Calling it then builds a *call*, as calling an `async fn` builds a future: nothing runs until
/// the call is given to `migrt::spawn`. `.run()` on the call runs the body here and now instead, as
/// an ordinary function would.
///
/// ```ignore
/// #[migrt::migratable]
/// fn sort_run(mut run: Vec<Record>) -> Vec<Record> {
///     run.sort();
///     run
/// }
///
/// let task = migrt::spawn(sort_run(records));
/// let sorted = task.join()?;
/// ```
///
/// Arguments and result cross the task's border by value, encoded with serde: they implement
/// `serde::Serialize` and `serde::de::DeserializeOwned`. Each turn of a `for`, `while` or `loop` of
/// the body begins with a safepoint, where the task may be moved; loops in nested functions,
/// closures, `async` and `const` blocks and in macro calls do not get one.
///
/// The attribute takes one option, `crate = path`, for a program that knows `migrt` by another
/// name.
///
/// # Errors
///
/// Refused at compile time, with a text that says what to write instead (a method in an `impl`
/// block without `self` is refused by the compiler itself: an entry is a free function): references
/// and lifetimes in arguments or result, `self`, `impl Trait`, generic parameters, `async`,
/// `unsafe`, `const` and `extern` functions, and types without serde.
#[proc_macro_attribute]
pub fn migratable(options: TokenStream, item: TokenStream) -> TokenStream {
    builder::expand(options.into(), item.into())
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}

/// Starts the runtime around `fn main`, which becomes the program's first local task.
///
/// The function may return what an ordinary `main` may: nothing, or a `Result<(), E>`. Options:
/// `workers = N`, the number of worker threads (the default is one for each core), and `crate =
/// path`.
///
/// ```ignore
/// #[migrt::main(workers = 2)]
/// fn main() -> migrt::Result<()> {
///     migrt::spawn(|| println!("hello")).join()?;
///     Ok(())
/// }
/// ```
///
/// # Errors
///
/// Refused at compile time: `async fn main`, arguments, generic parameters, and any function that
/// is not called `main`.
#[proc_macro_attribute]
pub fn main(options: TokenStream, item: TokenStream) -> TokenStream {
    let item = item.into();
    main_fn::expand(options.into(), &item)
        .unwrap_or_else(|error| main_fn::refused(&item, &error))
        .into()
}
