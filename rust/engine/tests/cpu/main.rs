//! The CPU's tests: each backend against text vectors, against the host's CPU, and against the other.

mod host_oracle;
mod machine;
mod native;
mod random;
mod vectors;
