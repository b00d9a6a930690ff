//! What `#[migratable]` refuses, and what to write instead.
//!
//! A refusal is worth as much as its advice: each text names the culprit, says why a moving task
//! cannot have it, and gives the line to write. All refusals of one function are reported together.
//! Types that merely lack serde are not seen here: that is a question for the compiler, asked by
//! the code that `builder` writes.

use proc_macro2::TokenStream;
use quote::ToTokens;
use syn::visit::{self, Visit};
use syn::{
    FnArg, GenericParam, Lifetime, Pat, ReturnType, Signature, Type, TypeImplTrait, TypePtr,
    TypeReference,
};

/// Checks a signature.
///
/// # Errors
///
/// All refusals, combined into one error.
pub(crate) fn check_signature(sig: &Signature) -> syn::Result<()> {
    let mut refusals = Refusals(None);
    refusals.check_qualifiers(sig);
    refusals.check_generics(sig);
    for arg in &sig.inputs {
        refusals.check_argument(arg);
    }
    if let ReturnType::Type(_, ty) = &sig.output {
        refusals.check_type(Place::Result, ty);
    }
    refusals.0.map_or(Ok(()), Err)
}

/// Where in the signature a type stands.
#[derive(Clone)]
enum Place {
    Argument(String),
    Result,
}

struct Refusals(Option<syn::Error>);

impl Refusals {
    fn refuse(&mut self, culprit: impl ToTokens, text: impl std::fmt::Display) {
        let error = syn::Error::new_spanned(culprit, text);
        match &mut self.0 {
            Some(first) => first.combine(error),
            None => self.0 = Some(error),
        }
    }

    fn check_qualifiers(&mut self, sig: &Signature) {
        let name = &sig.ident;
        if let Some(token) = &sig.asyncness {
            self.refuse(
                token,
                format!(
                    "a migratable function is not `async`: a task waits by blocking calls, which suspend it. \
                     Write `fn {name}` and `migrt::block_on(future)` where it awaits"
                ),
            );
        }
        if let Some(token) = &sig.constness {
            self.refuse(
                token,
                format!(
                    "a migratable function is not `const`: it is a task's start. Write `fn {name}`"
                ),
            );
        }
        if let Some(token) = &sig.unsafety {
            self.refuse(
                token,
                format!(
                    "a migratable function is not `unsafe`: it is started by the runtime, which cannot keep a caller's promise. \
                     Write `fn {name}` and an `unsafe` block inside"
                ),
            );
        }
        if let Some(abi) = &sig.abi {
            self.refuse(
                abi,
                format!(
                    "a migratable function is not `extern`: it is started by its name in the entry table, never by foreign code. \
                     Write `fn {name}`"
                ),
            );
        }
        if let Some(variadic) = &sig.variadic {
            self.refuse(
                variadic,
                "a migratable function has a fixed list of arguments: write `rest: Vec<T>`",
            );
        }
    }

    fn check_generics(&mut self, sig: &Signature) {
        let name = &sig.ident;
        for param in &sig.generics.params {
            let text = match param {
                GenericParam::Lifetime(_) => format!(
                    "a migratable function has no lifetime parameters: nothing borrowed reaches another node. \
                     Write owned types in `{name}`"
                ),
                GenericParam::Type(param) => format!(
                    "a migratable function is not generic: each entry is one function with one name on every node. \
                     Write one function for each type, `{name}_u64` and so on, that calls a generic one with `{}` filled in",
                    param.ident
                ),
                GenericParam::Const(param) => format!(
                    "a migratable function is not generic: each entry is one function with one name on every node. \
                     Write `{}` as an ordinary argument",
                    param.ident
                ),
            };
            self.refuse(param, text);
        }
        if let Some(clause) = &sig.generics.where_clause {
            self.refuse(
                clause,
                "a migratable function has no `where` clause: it is not generic. Leave it out",
            );
        }
    }

    fn check_argument(&mut self, arg: &FnArg) {
        match arg {
            FnArg::Receiver(receiver) => self.refuse(
                receiver,
                "a migratable function has no `self`: a task owns what it works on. \
                 Write a free function that takes the value, `fn name(this: Type, …)`, and let the method spawn it",
            ),
            FnArg::Typed(arg) => {
                if let Some(cfg) = arg.attrs.iter().find(|attr| attr.path().is_ident("cfg") || attr.path().is_ident("cfg_attr")) {
                    self.refuse(
                        cfg,
                        "an argument of a migratable function is there in every build: nodes compare them. Put the `cfg` on the function",
                    );
                }
                let name = match &*arg.pat {
                    Pat::Ident(pat) => pat.ident.to_string(),
                    _ => "value".into(),
                };
                if let Pat::Ident(pat) = &*arg.pat
                    && let Some(token) = &pat.by_ref
                {
                    self.refuse(token, format!("an argument of a migratable function is taken by value. Write `{name}` without `ref`"));
                }
                self.check_type(Place::Argument(name), &arg.ty);
            }
        }
    }

    fn check_type(&mut self, place: Place, ty: &Type) {
        if let (Place::Result, Type::Never(_)) = (&place, ty) {
            self.refuse(ty, "a migratable function must be able to return: its handle has a `join`. Leave `-> !` out and the result is `()`");
            return;
        }
        TypeVisitor { place, refusals: self }.visit_type(ty);
    }
}

struct TypeVisitor<'a> {
    place: Place,
    refusals: &'a mut Refusals,
}

impl TypeVisitor<'_> {
    /// `an argument` or `the result`, for a text.
    fn what(&self) -> String {
        match &self.place {
            Place::Argument(name) => format!("argument `{name}`"),
            Place::Result => "the result".into(),
        }
    }
}

impl<'ast> Visit<'ast> for TypeVisitor<'_> {
    fn visit_type_reference(&mut self, node: &'ast TypeReference) {
        let text = format!(
            "{} of a migratable function cannot hold a reference: what it points to stays behind when the task moves. {}",
            self.what(),
            owned_instead_of(node, &self.place)
        );
        self.refusals.refuse(node, text);
    }

    fn visit_type_ptr(&mut self, node: &'ast TypePtr) {
        let text = format!(
            "{} of a migratable function cannot be a raw pointer: what it points to stays behind when the task moves. \
             Write an owned type, such as `Vec<T>`",
            self.what()
        );
        self.refusals.refuse(node, text);
    }

    fn visit_type_impl_trait(&mut self, node: &'ast TypeImplTrait) {
        let advice = match &self.place {
            Place::Argument(_) if starts_with(node, &["Fn", "FnMut", "FnOnce"]) => {
                "A closure cannot be sent; write the values that it needs as arguments, or an enum of what to do"
            }
            Place::Result if starts_with(node, &["Future"]) => {
                "Write the future's output and wait inside, by `migrt::block_on(future)`"
            }
            _ if starts_with(node, &["Iterator", "IntoIterator"]) => "Write `Vec<Item>`, collected",
            _ => "Write the type itself, or an enum of the types that may come",
        };
        let text = format!(
            "{} of a migratable function cannot be `impl Trait`: an entry has the same concrete types on every node. {advice}",
            self.what()
        );
        self.refusals.refuse(node, text);
    }

    fn visit_lifetime(&mut self, node: &'ast Lifetime) {
        if node.ident != "static" {
            let text = format!(
                "{} of a migratable function cannot borrow: what is borrowed stays behind when the task moves. \
                 Write the owned form of the type, or `'static`",
                self.what()
            );
            self.refusals.refuse(node, text);
        }
    }

    // Lifetimes that a function pointer or a `for<'a>` binds itself borrow nothing from outside.
    fn visit_type_bare_fn(&mut self, _: &'ast syn::TypeBareFn) {}

    fn visit_parenthesized_generic_arguments(
        &mut self,
        _: &'ast syn::ParenthesizedGenericArguments,
    ) {
    }

    fn visit_trait_bound(&mut self, node: &'ast syn::TraitBound) {
        if node.lifetimes.is_none() {
            visit::visit_trait_bound(self, node);
        }
    }

    fn visit_expr(&mut self, _: &'ast syn::Expr) {}
}

/// What to write instead of a reference.
fn owned_instead_of(node: &TypeReference, place: &Place) -> String {
    let owned = match &*node.elem {
        Type::Slice(slice) => format!("Vec<{}>", text_of(&slice.elem)),
        elem => match text_of(elem).as_str() {
            "str" => "String".to_string(),
            "Path" | "std::path::Path" => "PathBuf".to_string(),
            "CStr" | "std::ffi::CStr" => "CString".to_string(),
            other => other.to_string(),
        },
    };
    match place {
        Place::Argument(name) if node.mutability.is_some() => {
            format!("Write `mut {name}: {owned}` and return it")
        }
        Place::Argument(name) => format!("Write `{owned}` by value in `{name}`"),
        Place::Result => format!("Write `{owned}`"),
    }
}

/// The source text of some tokens, spaced as people write types.
fn text_of(tokens: &impl ToTokens) -> String {
    let tokens: TokenStream = tokens.to_token_stream();
    let spaced = tokens.to_string();
    let tight = [
        (" < ", "<"),
        (" <", "<"),
        ("< ", "<"),
        (" >", ">"),
        (" :: ", "::"),
        (" ,", ","),
        ("& ", "&"),
        (" ;", ";"),
    ];
    tight.iter().fold(spaced, |text, (from, to)| text.replace(from, to))
}

/// Whether the first trait of an `impl Trait` is called one of `names`.
fn starts_with(node: &TypeImplTrait, names: &[&str]) -> bool {
    let Some(syn::TypeParamBound::Trait(bound)) = node.bounds.first() else {
        return false;
    };
    bound.path.segments.last().is_some_and(|last| names.iter().any(|name| last.ident == name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use quote::quote;

    fn refusals_of(sig: TokenStream) -> Vec<String> {
        match check_signature(&syn::parse2(sig).unwrap()) {
            Ok(()) => Vec::new(),
            Err(all) => all.into_iter().map(|error| error.to_string()).collect(),
        }
    }

    fn check(sig: TokenStream, texts: &[&str]) {
        let refusals = refusals_of(sig.clone());
        assert_eq!(refusals.len(), texts.len(), "{sig}: {refusals:#?}");
        for (refusal, text) in refusals.iter().zip(texts) {
            assert!(refusal.contains(text), "{sig}: {refusal}\nlacks: {text}");
        }
    }

    #[test]
    fn owned_signatures_pass() {
        check(quote!(fn f()), &[]);
        check(
            quote!(fn f(a: u8, mut b: Vec<String>, _: (u8, char)) -> Result<Option<u8>, String>),
            &[],
        );
        check(quote!(fn f(a: std::borrow::Cow<'static, str>) -> [u8; 4]), &[]);
        check(quote!(fn f((a, b): (u8, u8))), &[]);
    }

    #[test]
    fn references_are_refused_wherever_they_hide() {
        check(quote!(fn f(name: &str)), &["Write `String` by value in `name`"]);
        check(quote!(fn f(all: &[Vec<u8>])), &["Write `Vec<Vec<u8>>` by value in `all`"]);
        check(quote!(fn f(list: &mut Vec<u8>)), &["Write `mut list: Vec<u8>` and return it"]);
        check(quote!(fn f(a: Option<(u8, &'static str)>)), &["argument `a`"]);
        check(
            quote!(fn f() -> Vec<&'static str>),
            &["the result of a migratable function cannot hold a reference"],
        );
        check(quote!(fn f(a: Cow<'_, str>)), &["cannot borrow"]);
        check(quote!(fn f(a: *const u8)), &["raw pointer"]);
    }

    #[test]
    fn every_refusal_of_a_function_is_reported() {
        check(
            quote!(async unsafe fn f<T>(&self, a: &str, b: impl Fn()) -> impl Future<Output = ()>),
            &[
                "not `async`",
                "not `unsafe`",
                "not generic",
                "no `self`",
                "String",
                "A closure cannot be sent",
                "block_on",
            ],
        );
    }

    #[test]
    fn qualifiers_and_parameters_are_refused_by_name() {
        check(quote!(const fn f()), &["not `const`"]);
        check(quote!(extern "C" fn f()), &["not `extern`"]);
        check(quote!(fn f<'a>(a: Cow<'a, str>)), &["no lifetime parameters", "cannot borrow"]);
        check(quote!(fn f<const N: usize>()), &["Write `N` as an ordinary argument"]);
        check(quote!(fn f() where String: Clone), &["no `where` clause"]);
        check(quote!(fn f() -> !), &["must be able to return"]);
        check(quote!(fn f(ref a: u8)), &["without `ref`"]);
    }
}
