//! Two migratable functions of one name: the program must not start.

#[migrt::migratable]
fn twin() {}

mod other {
    /// A function inside a function has the path of the module: made to collide.
    pub(crate) fn nested() {
        #[migrt::migratable]
        fn inner() {}
        inner().run();
    }
    pub(crate) fn nested_too() {
        #[migrt::migratable]
        fn inner() {}
        inner().run();
    }
}

#[migrt::main]
fn main() {
    twin().run();
    other::nested();
    other::nested_too();
    println!("it started");
}
