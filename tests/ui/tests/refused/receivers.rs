//! A method is no task.

#![allow(unused, reason = "only the refusals matter")]

struct Sorter;

impl Sorter {
    #[migrt::migratable]
    fn by_reference(&self) {}

    #[migrt::migratable]
    fn by_mutable_reference(&mut self) {}

    #[migrt::migratable]
    fn by_value(self) {}
}

fn main() {}
