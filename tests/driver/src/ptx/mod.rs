//! PTX: what a driver takes from it, and its execution.
//!
//! A text is read once ([`Module`]): of each kernel what a launch needs, and its body, decoded to a [`program`] whose
//! instructions name places of registers. A launch executes the program in every thread ([`run`]): what only
//! computes by a table of functions ([`arithmetic`]), what threads do together and shared memory by the emulator's
//! own functions, the same that the kernel's source calls there. So the emulator finds the same faults, and an
//! instruction of another meaning than the source's gives other bits.

mod arithmetic;
mod decode;
mod instructions;
mod memory;
mod program;
mod run;
mod touches;
mod wgmma;

use std::collections::HashMap;
use std::sync::Arc;

use cpift_ptx::text::{Assembly, Kind};
pub use program::Program;
pub use run::launch;

/// A text of PTX.
#[derive(Debug, Clone)]
pub struct Module {
    /// `.version`.
    pub version: (u32, u32),
    /// `.target`, as `sm_80`.
    pub target: String,
    /// By name.
    pub entries: HashMap<String, Arc<Entry>>,
}

/// A kernel in PTX.
#[derive(Debug, Default)]
pub struct Entry {
    /// In order.
    pub parameters: Vec<Parameter>,
    /// `.reqntid`.
    pub threads: Option<[u32; 3]>,
    /// Its body.
    pub program: Program,
}

/// A parameter of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Its name in the text.
    pub name: String,
    /// Bytes of the parameters before it, with those between that alignment takes.
    pub offset: usize,
    /// Its size.
    pub bytes: usize,
    /// Whether it is declared as an address.
    pub pointer: bool,
    /// Whether it is a floating-point number.
    pub float: bool,
}

impl Module {
    /// Reads a text.
    ///
    /// # Errors
    /// What the text lacks, as a line for the compiler's log.
    pub fn parse(text: &str) -> Result<Self, String> {
        let assembly = Assembly::parse(text).map_err(|error| error.to_string())?;
        let (major, minor) = assembly.version.split_once('.').ok_or("a .version without a minor number")?;
        let number = |text: &str| text.parse().map_err(|_| format!("`{text}` in .version is no number"));
        let version = (number(major)?, number(minor)?);
        let target = assembly.target.split(',').next().unwrap_or_default().trim().to_owned();
        if directive(text, ".address_size") != Some("64") {
            return Err("addresses are not of 64 bits".to_owned());
        }
        // The block's dynamic shared memory: `.extern .shared .align 16 .b8 name[];`.
        let dynamic = assembly.items.iter().filter(|item| item.text.trim().starts_with(".extern .shared "));
        let shared: Vec<String> = dynamic.map(|item| item.name.clone()).collect();
        let mut entries = HashMap::new();
        for item in assembly.items.iter().filter(|item| item.kind == Kind::Entry) {
            let (line, body) = item.body().ok_or("an .entry without a body")?;
            let (_, rest) = item.text.split_once('(').ok_or("an .entry without parameters")?;
            let (parameters, header) = rest.split_once(')').ok_or("an .entry whose parameters do not end")?;
            let header = header.split_once('{').map_or(header, |(header, _)| header);
            let mut entry = Entry {
                parameters: Parameter::parse_all(parameters)?,
                threads: directive(header, ".reqntid").map(dimensions).transpose()?,
                program: Program::default(),
            };
            entry.program = decode::decode(&entry, &shared, body, line as u32)?;
            if entries.insert(item.name.clone(), Arc::new(entry)).is_some() {
                return Err(format!("duplicate definition of `{}`", item.name));
            }
        }
        Ok(Self { version, target, entries })
    }

    /// Whether a device of this compute capability runs it.
    pub fn runs_on(&self, (major, minor): (u32, u32)) -> bool {
        let device = 10 * major + minor;
        let Some(number) = self.target.strip_prefix("sm_") else { return false };
        match number.strip_suffix('a') {
            Some(number) => number.parse() == Ok(device),
            None => number.parse().is_ok_and(|number: u32| number <= device),
        }
    }
}

impl Parameter {
    /// Those of an entry, a line each.
    fn parse_all(text: &str) -> Result<Vec<Self>, String> {
        let mut parameters = Vec::new();
        let mut end = 0usize;
        for line in text.lines().map(|line| line.trim().trim_end_matches(',')).filter(|line| !line.is_empty())
        {
            let (mut parameter, align) = Self::parse(line)?;
            parameter.offset = end.next_multiple_of(align);
            end = parameter.offset + parameter.bytes;
            parameters.push(parameter);
        }
        Ok(parameters)
    }

    /// A parameter by itself, and what its place must be a multiple of.
    fn parse(line: &str) -> Result<(Self, usize), String> {
        // A tensor map by value: `.param .align 64 .b8 name[128]`.
        let array = line.strip_prefix(".param .align ").and_then(|rest| rest.split_once(" .b8 "));
        if let Some((align, array)) = array {
            let align = align.parse().ok().filter(|align| *align > 0);
            let align = align.ok_or_else(|| format!("`{line}` has no alignment"))?;
            let found = array.strip_suffix(']').and_then(|array| array.split_once('['));
            let found = found.and_then(|(name, bytes)| Some((name, bytes.parse().ok()?)));
            let (name, bytes) = found.ok_or_else(|| format!("`{array}` is no array"))?;
            return Ok((
                Self { name: name.to_owned(), offset: 0, bytes, pointer: false, float: false },
                align,
            ));
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let (&[".param", kind, name] | &[".param", kind, ".ptr", .., name]) = &words[..] else {
            return Err(format!("`{line}` is no parameter"));
        };
        let bytes = match kind.trim_start_matches(['.', 'u', 's', 'b', 'f']) {
            "8" => 1,
            "16" => 2,
            "32" => 4,
            "64" => 8,
            _ => return Err(format!("a parameter of type `{kind}`")),
        };
        let (pointer, float) = (words.contains(&".ptr"), kind.starts_with(".f"));
        Ok((Self { name: name.to_owned(), offset: 0, bytes, pointer, float }, bytes))
    }
}

/// What stands behind a directive on its line.
fn directive<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| Some(line.trim().strip_prefix(name)?.trim()))
}

fn dimensions(text: &str) -> Result<[u32; 3], String> {
    let mut numbers = [1; 3];
    for (number, word) in numbers.iter_mut().zip(text.split(',')) {
        *number = word.trim().parse().map_err(|_| format!("`{text}` are no dimensions"))?;
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = ".version 7.8\n.target sm_90a, debug\n.address_size 64\n\n.visible .entry one(\n\
        \t.param .u64 .ptr .align 1 one_param_0,\n\t.param .f32 one_param_1\n)\n.reqntid 128, 1, 1\n{\n\
        \tret;\n}\n.visible .entry two()\n{\n\tret;\n}\n";

    #[test]
    fn entries_are_read() {
        let module = Module::parse(TEXT).unwrap();
        assert_eq!((module.version, module.target.as_str()), ((7, 8), "sm_90a"));
        let one = &module.entries["one"];
        assert_eq!(one.threads, Some([128, 1, 1]));
        let sizes: Vec<_> =
            one.parameters.iter().map(|each| (each.bytes, each.pointer, each.float)).collect();
        assert_eq!(sizes, [(8, true, false), (4, false, true)]);
        assert_eq!(one.parameters.iter().map(|each| each.offset).collect::<Vec<_>>(), [0, 8]);
        assert!(module.entries["two"].parameters.is_empty() && module.entries["two"].threads.is_none());
        assert!(module.runs_on((9, 0)) && !module.runs_on((10, 0)) && !module.runs_on((8, 0)));
    }

    #[test]
    fn what_is_no_ptx_is_refused() {
        assert!(Module::parse("nonsense").is_err());
        assert!(Module::parse(&TEXT.replace(".address_size 64", "")).is_err());
        assert!(Module::parse(&TEXT.replace("entry two", "entry one")).is_err());
        let error =
            Module::parse(&TEXT.replace("\tret;\n}\n.vis", "\tfrobnicate.b32 %r1;\n}\n.vis")).unwrap_err();
        assert_eq!(error, "line 11: the instruction `frobnicate.b32` with 1 operands is not known here");
    }

    #[test]
    fn the_committed_modules_have_the_kernels_parameters() {
        for &(family, kernels) in cpift_kernels::families() {
            let device = if cpift_kernels::modules::ptx(family, (8, 0)).is_some() { (8, 0) } else { (9, 0) };
            let module = Module::parse(cpift_kernels::modules::ptx(family, device).unwrap()).unwrap();
            assert!(module.runs_on(device), "{family}");
            for kernel in kernels {
                crate::launch::same_parameters(kernel, &module.entries[kernel.name]).unwrap();
                assert_eq!(
                    module.entries[kernel.name].threads,
                    Some([kernel.block, 1, 1]),
                    "{}",
                    kernel.name
                );
            }
            assert_eq!(module.entries.len(), kernels.len(), "{family}");
        }
    }
}
