//! `#[migratable]`: from `fn f(a: A) -> R { body }` to a builder, a call type and an entry.
//!
//! ```text
//!   fn f(a: A) -> __call_f             the builder, in the function's place: same name, visibility and docs
//!   struct __call_f { arg0: A }        the call: its arguments, nothing else
//!     __call_f::body(a: A) -> R        the user's text, with safepoints
//!     __call_f::run(self) -> R         the body here and now
//!     impl Call                        encode, decode, run: what the runtime asks of a call
//!     impl Spawn                       what `migrt::spawn` asks of it; the handle is a `JoinHandle<R>`
//!     static ENTRY in ENTRIES          where other nodes find `f` by its name's hash
//! ```
//!
//! The call type has a name of its own rather than `f` (a struct may share a function's name): a
//! program may well have a `mod f` beside `fn f`. The body is not a function called `f` inside
//! `run` either: in the body `f` has to mean the builder, for tasks that spawn their like.
//!
//! Each argument's type is asked for `migrt::Argument` at the type's own place in the source, by
//! the two calls that need it; the compiler reports equal errors once.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::ext::IdentExt as _;
use syn::spanned::Spanned as _;
use syn::{Attribute, FnArg, Ident, ItemFn, Pat, ReturnType, Type};

use crate::options::Options;
use crate::{poll, refuse};

/// Expands `#[migrt::migratable(options)] item`.
///
/// # Errors
///
/// An option is unknown, the item is not a function, or the function is one that `refuse` refuses.
pub(crate) fn expand(options: TokenStream, item: TokenStream) -> syn::Result<TokenStream> {
    let Options { migrt, .. } = Options::parse("migratable", &["crate"], options)?;
    let item: ItemFn = syn::parse2(item.clone()).map_err(|error| explain_item(item, error))?;
    refuse::check_signature(&item.sig)?;
    let attrs = Attributes::sort(item.attrs)?;
    let parts = Parts::new(migrt, attrs, item.vis, item.sig, *item.block);
    let (builder, call, body, run, encoding, spawn, entry) = (
        parts.builder(),
        parts.call(),
        parts.body(),
        parts.run(),
        parts.encoding(),
        parts.spawn(),
        parts.entry(),
    );
    Ok(quote! { #builder #call #body #run #encoding #spawn #entry })
}

/// A kinder text than "expected `fn`" for the things people put the attribute on.
fn explain_item(item: TokenStream, error: syn::Error) -> syn::Error {
    match syn::parse2::<syn::Item>(item.clone()) {
        Ok(syn::Item::Fn(_)) | Err(_) if syn::parse2::<syn::TraitItemFn>(item.clone()).is_err() => {
            error
        }
        _ => syn::Error::new_spanned(
            item,
            "#[migrt::migratable] stands on a free function with a body: `fn name(argument: Type) -> Type { … }`",
        ),
    }
}

/// The function's attributes, by the generated item that they belong to.
struct Attributes {
    /// `cfg`: on everything that is written.
    cfg: Vec<Attribute>,
    /// Docs and `deprecated`: on the builder, which is what a reader of the docs calls.
    builder: Vec<Attribute>,
    /// Lint levels: on builder and body, since they may be meant for either.
    lints: Vec<Attribute>,
    /// The rest (`inline`, `cold`, …): on the body, which is what runs.
    body: Vec<Attribute>,
}

impl Attributes {
    fn sort(attrs: Vec<Attribute>) -> syn::Result<Self> {
        let mut sorted = Attributes {
            cfg: Vec::new(),
            builder: Vec::new(),
            lints: Vec::new(),
            body: Vec::new(),
        };
        for mut attr in attrs {
            let name = attr.path().get_ident().map(ToString::to_string).unwrap_or_default();
            match name.as_str() {
                "cfg" => sorted.cfg.push(attr),
                "doc" | "deprecated" => sorted.builder.push(attr),
                "allow" | "warn" | "deny" | "forbid" => sorted.lints.push(attr),
                // An expectation holds for one of the two items at most, so the other would warn.
                "expect" => {
                    if let syn::Meta::List(list) = &mut attr.meta {
                        list.path = syn::parse_quote!(allow);
                    }
                    sorted.lints.push(attr);
                }
                "no_mangle" | "export_name" | "unsafe" | "target_feature" | "naked" => {
                    let text = "a migratable function is started by its name in the entry table and has no linkage or instruction set of its own. \
                                Put this attribute on a function that it calls";
                    return Err(syn::Error::new_spanned(attr, text));
                }
                _ => sorted.body.push(attr),
            }
        }
        Ok(sorted)
    }
}

/// One argument: how the body, the builder and the call know it.
struct Argument {
    /// The user's own text, for the body.
    typed: syn::PatType,
    /// The builder's parameter and the name in errors.
    name: Ident,
    /// The call's field.
    field: Ident,
    ty: Type,
}

impl Argument {
    fn new(index: usize, arg: FnArg) -> Self {
        let FnArg::Typed(typed) = arg else { unreachable!("`refuse` lets no receiver through") };
        let field = format_ident!("arg{index}", span = typed.pat.span());
        let name = match &*typed.pat {
            Pat::Ident(pat) => pat.ident.clone(),
            _ => field.clone(),
        };
        Argument { name, field, ty: (*typed.ty).clone(), typed }
    }

    fn name_text(&self) -> String {
        self.name.unraw().to_string()
    }
}

/// Everything that the generated items are made of.
struct Parts {
    migrt: TokenStream,
    attrs: Attributes,
    vis: syn::Visibility,
    name: Ident,
    call: Ident,
    arguments: Vec<Argument>,
    output: Type,
    block: syn::Block,
}

impl Parts {
    fn new(
        migrt: TokenStream,
        attrs: Attributes,
        vis: syn::Visibility,
        sig: syn::Signature,
        mut block: syn::Block,
    ) -> Self {
        poll::insert_safepoints(&migrt, &mut block);
        let output = match sig.output {
            ReturnType::Default => syn::parse_quote_spanned!(sig.ident.span()=> ()),
            ReturnType::Type(_, ty) => *ty,
        };
        Parts {
            call: format_ident!("__call_{}", sig.ident.unraw(), span = sig.ident.span()),
            name: sig.ident,
            arguments: sig
                .inputs
                .into_iter()
                .enumerate()
                .map(|(index, arg)| Argument::new(index, arg))
                .collect(),
            migrt,
            attrs,
            vis,
            output,
            block,
        }
    }

    fn builder(&self) -> TokenStream {
        let Parts { attrs: Attributes { cfg, builder, lints, .. }, vis, name, call, .. } = self;
        let (names, fields, types) = self.columns();
        quote! {
            #(#builder)* #(#cfg)*
            #[allow(clippy::all, clippy::pedantic, reason = "written by migrt")]
            #(#lints)*
            #vis fn #name(#(#names: #types),*) -> #call {
                #call { #(#fields: #names),* }
            }
        }
    }

    fn call(&self) -> TokenStream {
        let Parts { attrs: Attributes { cfg, .. }, vis, call, .. } = self;
        let (_, fields, types) = self.columns();
        let title = self.name.unraw().to_string();
        quote! {
            #(#cfg)*
            #[doc(hidden)]
            #[must_use = "a call does nothing until it is spawned"]
            #[allow(non_camel_case_types, dead_code, clippy::all, clippy::pedantic, reason = "written by migrt")]
            #vis struct #call { #(#fields: #types),* }

            #(#cfg)*
            #[automatically_derived]
            impl ::core::fmt::Debug for #call {
                fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                    // Arguments need not be `Debug`.
                    f.debug_struct(#title).finish_non_exhaustive()
                }
            }
        }
    }

    fn body(&self) -> TokenStream {
        let Parts { attrs: Attributes { cfg, lints, body, .. }, call, output, block, .. } = self;
        let typed = self.arguments.iter().map(|argument| &argument.typed);
        quote! {
            #(#cfg)*
            impl #call {
                #(#body)* #(#lints)*
                fn body(#(#typed),*) -> #output #block
            }
        }
    }

    fn run(&self) -> TokenStream {
        let Parts { attrs: Attributes { cfg, .. }, vis, call, output, .. } = self;
        let (_, fields, _) = self.columns();
        quote! {
            #(#cfg)*
            #[allow(dead_code, clippy::all, clippy::pedantic, reason = "written by migrt")]
            impl #call {
                #[doc = "Runs the body here and now, as an ordinary call."]
                #vis fn run(self) -> #output {
                    Self::body(#(self.#fields),*)
                }
            }
        }
    }

    fn encoding(&self) -> TokenStream {
        let Parts { migrt, attrs: Attributes { cfg, .. }, call, output, .. } = self;
        let entry_static = self.entry_static();
        let encode = self.arguments.iter().map(|argument| {
            let Argument { field, ty, .. } = argument;
            let name = argument.name_text();
            quote_spanned!(ty.span()=> <#ty as #migrt::Argument>::__encode(&self.#field, #name, to)?;)
        });
        let decode = self.arguments.iter().map(|argument| {
            let Argument { field, ty, .. } = argument;
            let name = argument.name_text();
            quote_spanned!(ty.span()=> #field: <#ty as #migrt::Argument>::__decode(#name, from)?,)
        });
        let encode_output =
            quote_spanned!(output.span()=> <#output as #migrt::Output>::__encode(output, to));
        quote! {
            #(#cfg)*
            #[automatically_derived]
            #[allow(unused_variables, clippy::all, clippy::pedantic, reason = "written by migrt")]
            impl #migrt::__private::Call for #call {
                type Output = #output;

                const ENTRY: &'static #migrt::__private::Entry = &#entry_static;

                fn encode_arguments(&self, to: &mut #migrt::__private::Encoder<'_>) -> ::core::result::Result<(), #migrt::__private::EntryError> {
                    #(#encode)*
                    ::core::result::Result::Ok(())
                }

                fn decode_arguments(from: &mut #migrt::__private::Decoder<'_>) -> ::core::result::Result<Self, #migrt::__private::EntryError> {
                    ::core::result::Result::Ok(Self { #(#decode)* })
                }

                fn encode_output(
                    output: &#output,
                    to: &mut #migrt::__private::Encoder<'_>,
                ) -> ::core::result::Result<(), #migrt::__private::EntryError> {
                    #encode_output
                }

                fn run(self) -> #output {
                    #call::run(self)
                }
            }
        }
    }

    fn spawn(&self) -> TokenStream {
        let Parts { migrt, attrs: Attributes { cfg, .. }, call, output, .. } = self;
        quote! {
            #(#cfg)*
            #[automatically_derived]
            impl #migrt::Spawn for #call {
                type Handle = #migrt::JoinHandle<#output>;

                fn spawn(self) -> Self::Handle {
                    #migrt::__private::spawn_call(self)
                }

                fn try_spawn(self) -> ::std::result::Result<Self::Handle, #migrt::SpawnError> {
                    #migrt::__private::try_spawn_call(self)
                }
            }
        }
    }

    fn entry(&self) -> TokenStream {
        let Parts { migrt, attrs: Attributes { cfg, .. }, call, .. } = self;
        let name = self.name.unraw().to_string();
        let entry_static = self.entry_static();
        // Spanned at the name, so that `line!()` is the function's line and not the attribute's.
        let (file, line) = (
            quote_spanned!(self.name.span()=> ::core::file!()),
            quote_spanned!(self.name.span()=> ::core::line!()),
        );
        quote! {
            #(#cfg)*
            #[#migrt::__private::linkme::distributed_slice(#migrt::__private::ENTRIES)]
            #[linkme(crate = #migrt::__private::linkme)]
            #[doc(hidden)]
            #[allow(non_upper_case_globals, reason = "written by migrt")]
            static #entry_static: #migrt::__private::Entry = #migrt::__private::Entry::new(
                ::core::concat!(::core::module_path!(), "::", #name),
                #file,
                #line,
                #migrt::__private::run_entry::<#call>,
            );
        }
    }

    fn entry_static(&self) -> Ident {
        format_ident!("__ENTRY_{}", self.name.unraw(), span = self.name.span())
    }

    /// Names, fields and types of the arguments, each as a column.
    fn columns(&self) -> (Vec<&Ident>, Vec<&Ident>, Vec<&Type>) {
        let arguments = &self.arguments;
        (
            arguments.iter().map(|argument| &argument.name).collect(),
            arguments.iter().map(|argument| &argument.field).collect(),
            arguments.iter().map(|argument| &argument.ty).collect(),
        )
    }
}
