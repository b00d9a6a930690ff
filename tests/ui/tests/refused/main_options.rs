//! The options of `main` are few.

#![allow(unused, reason = "only the refusals matter")]

#[migrt::main(threads = 2)]
fn main() {}

mod none {
    #[migrt::main(workers = 0)]
    pub fn main() {}
}

mod elsewhere {
    #[migrt::main]
    fn start() {}
}
