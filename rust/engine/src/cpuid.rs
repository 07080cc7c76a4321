//! CPU models: what CPUID tells the guest (SDM vol. 2, CPUID).

use crate::state::CpuState;

/// The models by name, with a line of description each.
pub fn models() -> impl Iterator<Item = (&'static str, &'static str)> {
    [("max", "all that this host's processor can do")].into_iter()
}

/// What of the host the engine can use.
pub fn host_features() -> impl Iterator<Item = (&'static str, bool)> {
    [
        ("bmi2", is_x86_feature_detected!("bmi2")),
        ("avx2", is_x86_feature_detected!("avx2")),
    ]
    .into_iter()
}

/// A CPU model: which features exist.
#[derive(Clone, Debug)]
pub struct Model {
    pub name: String,
}

/// What CPUID returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leaf {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

impl Model {
    /// The model called `name`; None if there is none.
    pub fn named(name: &str) -> Option<Model> {
        (name == "max").then(|| Model {
            name: name.to_owned(),
        })
    }

    pub fn cpuid(&self, leaf: u32, _subleaf: u32, _cpu: &CpuState) -> Leaf {
        match leaf {
            0x8000_0000 => Leaf {
                eax: 0x8000_0001,
                ..Leaf::default()
            },
            0x8000_0001 => Leaf {
                edx: 1 << 11 | 1 << 20 | 1 << 29,
                ..Leaf::default()
            },
            _ => Leaf::default(),
        }
    }

    /// Family, model and stepping as CPUID.1:EAX and as EDX after reset.
    pub fn signature(&self) -> u32 {
        0x0A10_F11
    }
}
