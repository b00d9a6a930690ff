//! `#[main]`: the program's `main` inside a `main` that starts the runtime.
//!
//! The result type is left to `migrt::__private::main`, whose bound tells what a `main` may return.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned as _;
use syn::{ItemFn, Signature};

use crate::options::Options;

/// Expands `#[migrt::main(options)] item`.
///
/// # Errors
///
/// The item is not a `fn main()` that can be a task, or an option is unknown.
pub(crate) fn expand(options: TokenStream, item: &TokenStream) -> syn::Result<TokenStream> {
    let Options { migrt, workers } = Options::parse("main", &["workers", "crate"], options)?;
    let ItemFn { attrs, vis, sig, block } = syn::parse2(item.clone())?;
    check_signature(&sig)?;
    let output = &sig.output;
    let workers = match workers {
        Some(count) => quote_spanned!(count.span()=> ::core::option::Option::Some(#count)),
        None => quote!(::core::option::Option::None),
    };
    // `__main` stands inside, so that the user's own lines keep their places and nothing else sees
    // its name.
    let call = quote_spanned! {sig.ident.span()=>
        #migrt::__private::main(#migrt::__private::MainOptions { workers: #workers }, __main)
    };
    Ok(quote! {
        #vis fn main() -> ::std::process::ExitCode {
            #(#attrs)*
            fn __main() #output #block
            #call
        }
    })
}

/// The error, and an empty `main` where there was one, so that its absence is not reported beside
/// the true cause.
pub(crate) fn refused(item: &TokenStream, error: &syn::Error) -> TokenStream {
    let error = error.to_compile_error();
    match syn::parse2::<ItemFn>(item.clone()) {
        Ok(item) if item.sig.ident == "main" => quote!(#error fn main() {}),
        _ => error,
    }
}

fn check_signature(sig: &Signature) -> syn::Result<()> {
    let refuse =
        |culprit: &dyn quote::ToTokens, text: &str| Err(syn::Error::new_spanned(culprit, text));
    if sig.ident != "main" {
        return refuse(
            &sig.ident,
            "#[migrt::main] starts the program and stands on `fn main()`; for the start of a task write #[migrt::migratable]",
        );
    }
    if let Some(token) = &sig.asyncness {
        return refuse(
            token,
            "`main` is not `async`: it is a task, and tasks wait by blocking calls. Write `fn main()` and `migrt::block_on(future)` where it awaits",
        );
    }
    if let Some(token) = &sig.unsafety {
        return refuse(
            token,
            "`main` is not `unsafe`: write `fn main()` and an `unsafe` block inside",
        );
    }
    if let Some(arg) = sig.inputs.first() {
        return refuse(
            arg,
            "`main` takes no arguments: write `fn main()` and read the command line by `std::env::args()`",
        );
    }
    if let Some(param) = sig.generics.params.first() {
        return refuse(param, "`main` is not generic: write `fn main()`");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(item: TokenStream) -> String {
        expand(TokenStream::new(), &item).unwrap_err().to_string()
    }

    #[test]
    fn main_becomes_a_function_that_the_runtime_calls() {
        let text = expand(
            quote!(workers = 3),
            &quote!(
                fn main() -> Result<(), E> {
                    body()
                }
            ),
        )
        .unwrap()
        .to_string();
        assert!(text.contains("fn __main () -> Result < () , E > { body () }"), "{text}");
        assert!(text.contains("workers : :: core :: option :: Option :: Some (3)"), "{text}");
        syn::parse_str::<ItemFn>(&text).unwrap();
    }

    #[test]
    fn what_cannot_be_a_main_is_refused() {
        assert!(
            error_of(quote!(
                async fn main() {}
            ))
            .contains("block_on")
        );
        assert!(
            error_of(quote!(
                fn main(args: Vec<String>) {}
            ))
            .contains("std::env::args")
        );
        assert!(
            error_of(quote!(
                fn start() {}
            ))
            .contains("#[migrt::migratable]")
        );
        assert!(
            error_of(quote!(
                fn main<T>() {}
            ))
            .contains("not generic")
        );
    }
}
