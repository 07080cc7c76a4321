//! The CPU's tests: each backend against text vectors, against the host's CPU, and against the other.

mod agree;
mod branch_targets;
mod critical_section;
mod host_oracle;
mod machine;
mod nasm;
mod native;
mod random;
mod random_code;
mod self_modifying;
mod undefined;
mod vectors;
