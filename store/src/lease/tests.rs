//! Leases against marks and fences.
