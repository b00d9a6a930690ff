//! Internal to migrt.
