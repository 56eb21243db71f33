// Written by `cargo ptx`: family, oldest compute capability, PTX.
const MODULES: &[(&str, (u32, u32), &str)] = &[];
