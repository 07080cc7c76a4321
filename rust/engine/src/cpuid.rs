//! CPU models: what CPUID tells the guest (SDM vol. 2, CPUID).

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

    /// Family, model and stepping as CPUID.1:EAX and as EDX after reset.
    pub fn signature(&self) -> u32 {
        0x0A10_F11
    }
}
