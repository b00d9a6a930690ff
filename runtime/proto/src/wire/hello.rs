//! The first message of a link, and the comparison that decides whether there will be a second.
//!
//! Return addresses, vtables and register layouts travel inside tasks, so two nodes must be the same program at the
//! same addresses on the same class of CPU. Every difference is refused by name with both values shown. Nothing else
//! is parsed before. Who a node is (and whether its incarnation is welcome) is `Core::admits`, not here.

use core::fmt;

use serde::{Deserialize, Serialize};

use super::limits::{self, WireError, bytes};
use crate::id::{Incarnation, NodeId, Place};

/// What a node says of itself. The driver fills it in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`crate::wire::WIRE_VERSION`]. First, so that other versions can be told from noise.
    pub wire_version: u32,
    /// Hash over the loaded read-only segments.
    #[serde(with = "bytes")]
    pub build_id: Vec<u8>,
    /// First address of the region.
    pub region_base: u64,
    /// Length of the region in bytes.
    pub region_len: u64,
    /// Bytes per page.
    pub page_len: u32,
    /// CPU feature words that code generation and libc choose by.
    pub cpu_features: [u64; 4],
    /// State components that the kernel has enabled.
    pub xcr0: u64,
    /// Hash of CPUID leaf 0xD: where each component lies.
    pub xsave_layout: u64,
    /// Hash of the resolved IFUNC targets.
    pub ifunc_targets: u64,
    /// Whether control-flow enforcement is on; it has to be off.
    pub cet: bool,
    /// The cluster.
    pub cluster_id: u64,
    /// Hash of the list of entries.
    pub entries: u64,
    /// The node, as in its certificate.
    pub node: NodeId,
    /// Its process.
    pub incarnation: Incarnation,
    /// Whether faults on missing pages can be served there (post-copy). Not compared: it is no reason to refuse.
    pub can_fault: bool,
}

/// The first difference between two hellos.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelloMismatch {
    /// What differs.
    pub field: &'static str,
    /// Our value.
    pub ours: String,
    /// Theirs.
    pub theirs: String,
    /// What to do about it.
    pub advice: &'static str,
}

impl Hello {
    /// Who says it.
    pub fn place(&self) -> Place {
        Place::new(self.node, self.incarnation)
    }

    /// Appends the encoded hello to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        limits::encode(self, out);
    }

    /// Decodes a hello of this wire version.
    ///
    /// # Errors
    /// [`WireError`] for anything else. A hello that begins with another wire version is decoded as far as
    /// [`Hello::peek_version`] only.
    pub fn decode(bytes: &[u8]) -> Result<Hello, WireError> {
        limits::decode(bytes, "hello")
    }

    /// The wire version that `bytes` begin with: says why a hello of another version does not decode.
    pub fn peek_version(bytes: &[u8]) -> Option<u32> {
        postcard::take_from_bytes::<u32>(bytes).ok().map(|(version, _)| version)
    }

    /// Whether tasks can travel between the two nodes.
    ///
    /// # Errors
    /// The first difference, by name.
    pub fn compare(&self, other: &Hello) -> Result<(), HelloMismatch> {
        const BUILD: &str = "start the same binary on every node, linked static and non-PIE";
        const CPU: &str =
            "use nodes of one CPU class, or mask the difference (virtual machines: one CPU model)";
        let check = |field, same: bool, ours: String, theirs: String, advice| {
            if same { Ok(()) } else { Err(HelloMismatch { field, ours, theirs, advice }) }
        };
        macro_rules! equal {
            ($name:literal, $field:ident, $format:literal, $advice:expr) => {
                check(
                    $name,
                    self.$field == other.$field,
                    format!($format, self.$field),
                    format!($format, other.$field),
                    $advice,
                )?
            };
        }
        equal!("wire version", wire_version, "{}", BUILD);
        equal!("cluster id", cluster_id, "{:016x}", "give all nodes certificates of one cluster");
        check(
            "build id",
            self.build_id == other.build_id,
            hex(&self.build_id),
            hex(&other.build_id),
            BUILD,
        )?;
        equal!("entry list", entries, "{:016x}", BUILD);
        equal!("region base", region_base, "{:#x}", "configure the same region on every node");
        equal!("region length", region_len, "{:#x}", "configure the same region on every node");
        equal!("page size", page_len, "{}", "use kernels with one page size");
        equal!("CPU features", cpu_features, "{:x?}", CPU);
        equal!("XCR0", xcr0, "{:#x}", CPU);
        equal!("XSAVE layout", xsave_layout, "{:016x}", CPU);
        equal!("IFUNC targets", ifunc_targets, "{:016x}", CPU);
        equal!("CET", cet, "{}", "switch control-flow enforcement off on every node");
        check(
            "CET",
            !self.cet,
            "on".into(),
            "on".into(),
            "switch control-flow enforcement off on every node",
        )?;
        check(
            "node",
            self.node != other.node,
            format!("{}", self.place()),
            format!("{}", other.place()),
            "give every node a certificate of its own",
        )
    }
}

impl fmt::Display for HelloMismatch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HelloMismatch { field, ours, theirs, advice } = self;
        write!(out, "{field} does not fit: ours {ours}, theirs {theirs}; {advice}")
    }
}

impl core::error::Error for HelloMismatch {}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(node: u16) -> Hello {
        Hello {
            wire_version: crate::wire::WIRE_VERSION,
            build_id: vec![1, 2, 3],
            region_base: 0x2000_0000_0000,
            region_len: 19 << 40,
            page_len: 4096,
            cpu_features: [1, 2, 3, 4],
            xcr0: 7,
            xsave_layout: 8,
            ifunc_targets: 9,
            cet: false,
            cluster_id: 10,
            entries: 11,
            node: NodeId(node),
            incarnation: Incarnation(12),
            can_fault: true,
        }
    }

    #[test]
    fn a_hello_survives_the_wire() {
        let mut bytes = Vec::new();
        hello(1).encode(&mut bytes);
        assert_eq!(Hello::decode(&bytes), Ok(hello(1)));
        assert_eq!(Hello::peek_version(&bytes), Some(crate::wire::WIRE_VERSION));
        assert!(Hello::decode(&bytes[..bytes.len() - 1]).is_err());
    }

    #[test]
    fn equal_nodes_fit_and_every_difference_is_named_with_both_values() {
        assert_eq!(hello(0).compare(&hello(1)), Ok(()));
        let differ = |change: fn(&mut Hello)| {
            let mut other = hello(1);
            change(&mut other);
            hello(0).compare(&other).unwrap_err()
        };
        type Change = (&'static str, fn(&mut Hello));
        let changes: [Change; 13] = [
            ("wire version", |h| h.wire_version += 1),
            ("build id", |h| h.build_id.push(4)),
            ("region base", |h| h.region_base += 1),
            ("region length", |h| h.region_len += 1),
            ("page size", |h| h.page_len += 1),
            ("CPU features", |h| h.cpu_features[2] += 1),
            ("XCR0", |h| h.xcr0 += 1),
            ("XSAVE layout", |h| h.xsave_layout += 1),
            ("IFUNC targets", |h| h.ifunc_targets += 1),
            ("CET", |h| h.cet = true),
            ("cluster id", |h| h.cluster_id += 1),
            ("entry list", |h| h.entries += 1),
            ("node", |h| h.node = NodeId(0)),
        ];
        for (field, change) in changes {
            assert_eq!(differ(change).field, field);
        }
        let text = differ(|h| h.build_id = vec![0xab]).to_string();
        assert!(text.contains("010203") && text.contains("ab"), "{text}");
        let both = |mut h: Hello| {
            h.cet = true;
            h
        };
        assert_eq!(both(hello(0)).compare(&both(hello(1))).unwrap_err().field, "CET");
    }
}
