//! What a driver takes from PTX: its version, its target, and what each entry needs of a launch.

use std::collections::HashMap;

/// A text of PTX.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// `.version`.
    pub version: (u32, u32),
    /// `.target`, as `sm_80`.
    pub target: String,
    /// By name.
    pub entries: HashMap<String, Entry>,
}

/// A kernel in PTX.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// In order.
    pub parameters: Vec<Parameter>,
    /// `.reqntid`.
    pub threads: Option<[u32; 3]>,
    /// Bytes of shared memory it declares itself.
    pub shared: u32,
}

/// A parameter of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameter {
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
        let version = directive(text, ".version").ok_or("no .version")?;
        let (major, minor) = version.split_once('.').ok_or("a .version without a minor number")?;
        let number = |text: &str| text.parse().map_err(|_| format!("`{text}` in .version is no number"));
        let version = (number(major)?, number(minor)?);
        let target = directive(text, ".target").ok_or("no .target")?;
        let target = target.split(',').next().unwrap_or_default().trim().to_owned();
        if directive(text, ".address_size") != Some("64") {
            return Err("addresses are not of 64 bits".to_owned());
        }
        let mut entries = HashMap::new();
        for part in text.split(".entry ").skip(1) {
            let (name, rest) = part.split_once('(').ok_or("an .entry without parameters")?;
            let (parameters, rest) = rest.split_once(')').ok_or("an .entry whose parameters do not end")?;
            let (header, body) = rest.split_once('{').ok_or("an .entry without a body")?;
            let entry = Entry {
                parameters: parameters
                    .lines()
                    .filter(|line| !line.trim().is_empty())
                    .map(Parameter::parse)
                    .collect::<Result<_, _>>()?,
                threads: directive(header, ".reqntid").map(dimensions).transpose()?,
                shared: body.lines().filter_map(declared).sum(),
            };
            if entries.insert(name.trim().to_owned(), entry).is_some() {
                return Err(format!("duplicate definition of `{name}`"));
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
    fn parse(line: &str) -> Result<Self, String> {
        let mut words = line.split_whitespace();
        // A tensor map by value: `.param .align 64 .b8 name[128],`.
        if let Some(array) = line.trim().strip_prefix(".param .align 64 .b8 ") {
            let bytes = array.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
            let bytes = bytes.and_then(|(bytes, _)| bytes.parse().ok());
            let bytes = bytes.ok_or_else(|| format!("`{array}` is no array"))?;
            return Ok(Self { bytes, pointer: false, float: false });
        }
        let kind = match (words.next(), words.next()) {
            (Some(".param"), Some(kind)) => kind,
            _ => return Err(format!("`{}` is no parameter", line.trim())),
        };
        let bytes = match kind.trim_start_matches(['.', 'u', 's', 'b', 'f']) {
            "8" => 1,
            "16" => 2,
            "32" => 4,
            "64" => 8,
            _ => return Err(format!("a parameter of type `{kind}`")),
        };
        Ok(Self { bytes, pointer: words.next() == Some(".ptr"), float: kind.starts_with(".f") })
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

/// Bytes of a declaration as `.shared .align 4 .b8 name[64];`.
fn declared(line: &str) -> Option<u32> {
    let declaration = line.trim().strip_prefix(".shared ")?;
    let (_, rest) = declaration.split_once('[')?;
    rest.split_once(']')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = ".version 7.8\n.target sm_90a, debug\n.address_size 64\n\n.visible .entry one(\n\
        \t.param .u64 .ptr .align 1 one_param_0,\n\t.param .f32 one_param_1\n)\n.reqntid 128, 1, 1\n{\n\
        \t.shared .align 4 .b8 own[64];\n\tret;\n}\n.visible .entry two()\n{\n\tret;\n}\n";

    #[test]
    fn entries_are_read() {
        let module = Module::parse(TEXT).unwrap();
        assert_eq!((module.version, module.target.as_str()), ((7, 8), "sm_90a"));
        let one = &module.entries["one"];
        assert_eq!(one.threads, Some([128, 1, 1]));
        assert_eq!(one.shared, 64);
        let sizes: Vec<_> =
            one.parameters.iter().map(|each| (each.bytes, each.pointer, each.float)).collect();
        assert_eq!(sizes, [(8, true, false), (4, false, true)]);
        assert_eq!(module.entries["two"], Entry::default());
        assert!(module.runs_on((9, 0)) && !module.runs_on((10, 0)) && !module.runs_on((8, 0)));
    }

    #[test]
    fn what_is_no_ptx_is_refused() {
        assert!(Module::parse("nonsense").is_err());
        assert!(Module::parse(&TEXT.replace(".address_size 64", "")).is_err());
        assert!(Module::parse(&TEXT.replace("entry two", "entry one")).is_err());
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
