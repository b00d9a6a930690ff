//! The `name = value` lists inside the attributes' parentheses, read one name at a time; an unknown
//! name is refused with the known ones.

use proc_macro2::TokenStream;
use quote::quote;
use syn::ext::IdentExt as _;
use syn::parse::{ParseStream, Parser as _};
use syn::{Expr, ExprLit, Ident, Lit, Path, Token};

/// What an attribute's parentheses said.
pub(crate) struct Options {
    /// The path by which the program knows `migrt`.
    pub(crate) migrt: TokenStream,
    /// `workers = N`, of `#[main]` only.
    pub(crate) workers: Option<Expr>,
}

impl Options {
    /// Reads the options; `known` are the names that this attribute takes.
    pub(crate) fn parse(attribute: &str, known: &[&str], tokens: TokenStream) -> syn::Result<Self> {
        let mut options = Options { migrt: quote!(::migrt), workers: None };
        let read = |input: ParseStream<'_>| {
            while !input.is_empty() {
                options.read_one(attribute, known, input)?;
                if !input.is_empty() {
                    input.parse::<Token![,]>()?;
                }
            }
            Ok(())
        };
        read.parse2(tokens)?;
        Ok(options)
    }

    fn read_one(
        &mut self,
        attribute: &str,
        known: &[&str],
        input: ParseStream<'_>,
    ) -> syn::Result<()> {
        let name = input.call(Ident::parse_any)?;
        if !known.contains(&name.to_string().as_str()) {
            let known = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            let text = format!("#[migrt::{attribute}] has no option `{name}`; it takes {known}");
            return Err(syn::Error::new(name.span(), text));
        }
        input.parse::<Token![=]>()?;
        if name == "crate" {
            let path = input.call(Path::parse_mod_style)?;
            self.migrt = quote!(#path);
        } else {
            let count = input.parse::<Expr>()?;
            refuse_zero(&count)?;
            self.workers = Some(count);
        }
        Ok(())
    }
}

fn refuse_zero(count: &Expr) -> syn::Result<()> {
    match count {
        Expr::Lit(ExprLit { lit: Lit::Int(int), .. }) if int.base10_parse::<u64>()? == 0 => {
            Err(syn::Error::new_spanned(
                count,
                "a node needs at least one worker: write `workers = 1` or more, or leave the option out for one worker per core",
            ))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(tokens: TokenStream) -> String {
        match Options::parse("main", &["workers", "crate"], tokens) {
            Ok(_) => panic!("the options were accepted"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn an_unknown_option_is_refused_with_the_known_ones() {
        assert_eq!(
            error_of(quote!(wrokers = 2)),
            "#[migrt::main] has no option `wrokers`; it takes `workers`, `crate`"
        );
    }

    #[test]
    fn no_workers_are_too_few() {
        assert!(error_of(quote!(workers = 0)).contains("at least one worker"));
    }

    #[test]
    fn options_come_in_any_order_and_may_end_with_a_comma() {
        let options =
            Options::parse("main", &["workers", "crate"], quote!(crate = ::other, workers = 2,))
                .unwrap();
        assert_eq!(options.migrt.to_string(), ":: other");
        assert!(options.workers.is_some());
    }
}
