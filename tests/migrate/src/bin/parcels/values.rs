//! What is sent: a map of strings, and a tree whose children know their parents.

#![allow(unsafe_code, reason = "a tree whose children point to their parents")]

use std::collections::HashMap;

pub type Map = HashMap<String, Vec<u64>>;

/// The value of each key is so long, and as [`sum_of`] expects.
pub fn map(keys: u64, len: u64) -> Map {
    (0..keys).map(|key| (format!("key {key}"), (0..len).map(|n| n * key).collect())).collect()
}

/// What [`sum`] gives of such a map.
pub fn sum_of(keys: u64, len: u64) -> u64 {
    (0..keys).sum::<u64>() * (0..len).sum::<u64>()
}

#[inline(never)]
pub fn sum(map: &Map) -> u64 {
    map.iter()
        .map(|(key, values)| {
            assert!(key.starts_with("key "));
            values.iter().sum::<u64>()
        })
        .sum()
}

/// A tree whose children know their parents.
struct Node {
    name: String,
    parent: *const Node,
    #[expect(clippy::vec_box, reason = "their own children point to them")]
    children: Vec<Box<Node>>,
}

/// A tree may be sent as a whole: nothing outside points into it.
pub struct Tree(Box<Node>);

// SAFETY: the pointers lead to nodes of the same tree, which one owner has.
unsafe impl Send for Tree {}

impl Tree {
    pub fn grow(depth: u32) -> Tree {
        fn node(name: String, depth: u32, parent: *const Node) -> Box<Node> {
            let mut this = Box::new(Node { name, parent, children: Vec::new() });
            if depth > 0 {
                let at: *const Node = &raw const *this;
                this.children =
                    (0..3).map(|n| node(format!("{}.{n}", this.name), depth - 1, at)).collect();
            }
            this
        }
        Tree(node("root".to_owned(), depth, std::ptr::null()))
    }

    /// Walks down to each leaf and up again; the number of nodes.
    pub fn check(&self) -> u64 {
        fn walk(node: &Node, parent: *const Node, depth: usize) -> u64 {
            assert!(std::ptr::eq(node.parent, parent), "{}", node.name);
            let mut up = (node.parent, 0);
            // SAFETY: parents live as long as the tree.
            while let Some(parent) = unsafe { up.0.as_ref() } {
                up = (parent.parent, up.1 + 1);
            }
            assert_eq!((up.1, node.name.matches('.').count()), (depth, depth));
            1 + node.children.iter().map(|child| walk(child, node, depth + 1)).sum::<u64>()
        }
        walk(&self.0, std::ptr::null(), 0)
    }
}
