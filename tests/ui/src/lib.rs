//! Helpers of these tests.
