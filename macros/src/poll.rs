//! Safepoints at loop back edges: the first statement of each loop body of a function becomes
//! `safepoint()`.
//!
//! Only the function's *own* loops get one. A closure may be called where the task must not be
//! moved (while a foreign lock is held, from C), a nested function belongs to itself, `async`
//! blocks are polled by whoever, and `const` code has no task.

use proc_macro2::{Span, TokenStream};
use quote::quote_spanned;
use syn::spanned::Spanned as _;
use syn::visit_mut::{self, VisitMut};
use syn::{
    Block, ExprAsync, ExprClosure, ExprConst, ExprForLoop, ExprLoop, ExprRepeat, ExprWhile, Item,
    Stmt, Type,
};

/// Puts a safepoint at the head of each loop of `body`.
pub(crate) fn insert_safepoints(migrt: &TokenStream, body: &mut Block) {
    Inserter { migrt }.visit_block_mut(body);
}

struct Inserter<'a> {
    migrt: &'a TokenStream,
}

impl Inserter<'_> {
    fn insert(&self, span: Span, body: &mut Block) {
        let migrt = self.migrt;
        // A bare statement, so that nothing of the user's own text is wrapped and errors in it keep
        // their places.
        let poll = quote_spanned!(span=> #migrt::safepoint(););
        body.stmts.insert(0, Stmt::Expr(syn::Expr::Verbatim(poll), None));
    }
}

impl VisitMut for Inserter<'_> {
    fn visit_expr_for_loop_mut(&mut self, node: &mut ExprForLoop) {
        visit_mut::visit_expr_for_loop_mut(self, node);
        self.insert(node.for_token.span(), &mut node.body);
    }

    fn visit_expr_while_mut(&mut self, node: &mut ExprWhile) {
        visit_mut::visit_expr_while_mut(self, node);
        self.insert(node.while_token.span(), &mut node.body);
    }

    fn visit_expr_loop_mut(&mut self, node: &mut ExprLoop) {
        visit_mut::visit_expr_loop_mut(self, node);
        self.insert(node.loop_token.span(), &mut node.body);
    }

    fn visit_expr_repeat_mut(&mut self, node: &mut ExprRepeat) {
        // The length of `[x; len]` is const code.
        self.visit_expr_mut(&mut node.expr);
    }

    fn visit_item_mut(&mut self, _: &mut Item) {}

    fn visit_type_mut(&mut self, _: &mut Type) {}

    fn visit_generic_argument_mut(&mut self, _: &mut syn::GenericArgument) {}

    fn visit_expr_closure_mut(&mut self, _: &mut ExprClosure) {}

    fn visit_expr_async_mut(&mut self, _: &mut ExprAsync) {}

    fn visit_expr_const_mut(&mut self, _: &mut ExprConst) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use quote::{ToTokens as _, quote};

    /// The text of a block without the braces around it.
    fn text_of(body: &Block) -> String {
        body.stmts
            .iter()
            .map(|stmt| stmt.to_token_stream().to_string())
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Polls `body` and compares it with `expected`, in which `poll!();` stands for the safepoint.
    fn check(body: TokenStream, expected: TokenStream) {
        let mut body: Block = syn::parse2(quote!({ #body })).unwrap();
        insert_safepoints(&quote!(::migrt), &mut body);
        let poll = quote!(::migrt::safepoint();).to_string();
        // Parsed and printed like the other side, since spacing differs.
        let expected: Block = syn::parse2(quote!({ #expected })).unwrap();
        assert_eq!(text_of(&body), text_of(&expected).replace("poll ! () ;", &poll));
    }

    #[test]
    fn every_kind_of_loop_is_polled_at_its_head() {
        check(
            quote!(for x in y {
                a(x);
            }),
            quote!(for x in y {
                poll!();
                a(x);
            }),
        );
        check(
            quote!(while more() {}),
            quote!(while more() {
                poll!();
            }),
        );
        check(
            quote!(while let Some(x) = next() {
                x
            }),
            quote!(while let Some(x) = next() {
                poll!();
                x
            }),
        );
        check(
            quote!('outer: loop {
                break 'outer;
            }),
            quote!('outer: loop {
                poll!();
                break 'outer;
            }),
        );
    }

    #[test]
    fn nested_loops_are_polled_each() {
        check(
            quote!(loop {
                if a {
                    for x in y {}
                }
            }),
            quote!(loop {
                poll!();
                if a {
                    for x in y {
                        poll!();
                    }
                }
            }),
        );
        check(quote!(let v = loop { break 1 };), quote!(let v = loop { poll!(); break 1 };));
        check(
            // SAFETY: text of a test, never run.
            quote!(unsafe { loop {} }),
            quote!(unsafe {
                loop {
                    poll!();
                }
            }),
        );
    }

    #[test]
    fn code_that_is_not_the_functions_own_is_left_alone() {
        for code in [
            quote!(
                fn inner() {
                    loop {}
                }
            ),
            quote!(let f = || loop {};),
            quote!(let f = async { loop {} };),
            quote!(const { loop {} }),
            quote!(let a = [0; { let mut n = 0; while n < 4 { n += 1; } n }];),
            quote!(let a: [u8; { loop {} }] = b;),
            quote!(vec![loop {}];),
        ] {
            check(code.clone(), code);
        }
    }
}
