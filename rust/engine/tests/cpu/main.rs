//! The CPU's tests: each backend against text vectors, against the host's CPU, and against the other.

mod agree;
mod host_oracle;
mod machine;
mod native;
mod random;
mod random_code;
mod undefined;
mod vectors;
