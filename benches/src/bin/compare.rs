//! Times the engine's side of the comparison scripts in `benches/compare`.
//!
//! `compare OPERATION [ARGUMENT…]` prepares its data, then for every line read from standard input
//! runs the operation once and prints the seconds it took: so a script can alternate it with a peer.
//! The environment variable `THREADS` sets the number of threads.

use std::io::{BufRead, Write, stdin, stdout};
use std::time::Instant;

use cpift_benches::kernels::{random_mask, random_values};
use cpift_engine::ops::adamw::{AdamW, Gradient, Hyper, ImportanceKind};
use cpift_engine::ops::norm::squared_norm;
use cpift_engine::ops::{select, slerp};
use cpift_engine::{Buffer, Device, Layout, Result};

const USAGE: &str = "compare adamw PARAMETERS none|net|path|fisher FROZEN_SHARE | slerp ROWS COLUMNS \
                     | delta-slerp ROWS COLUMNS | select SCORES FRACTION | sum SCORES";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let device = cpift_benches::device();
    match arguments[..] {
        ["adamw", length, kind, share] => adamw(&device, number(length), kind, number(share)),
        ["slerp", rows, columns] => {
            interpolate(&device, number::<usize>(rows) * number::<usize>(columns), false)
        }
        ["delta-slerp", rows, columns] => {
            interpolate(&device, number::<usize>(rows) * number::<usize>(columns), true)
        }
        ["select", length, fraction] => selection(&device, number(length), number(fraction)),
        ["sum", length] => {
            let scores = Buffer::from_slice(&device, &random_values(number(length), 1))?;
            serve(|| squared_norm(&device, scores.view(), None).map(drop))
        }
        _ => usage(),
    }
}

fn usage() -> ! {
    eprintln!("{USAGE}");
    std::process::exit(2)
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| usage())
}

/// Runs `work` once for every line of standard input.
fn serve(mut work: impl FnMut() -> Result<()>) -> Result<()> {
    for _ in stdin().lock().lines() {
        let start = Instant::now();
        work()?;
        println!("{}", start.elapsed().as_secs_f64());
        stdout().flush().expect("standard output is open");
    }
    Ok(())
}

fn adamw(device: &Device, length: usize, kind: &str, share: f64) -> Result<()> {
    let kind = match kind {
        "none" => ImportanceKind::None,
        "net" => ImportanceKind::Net,
        "path" => ImportanceKind::Path,
        "fisher" => ImportanceKind::Fisher,
        _ => usage(),
    };
    let mut weights = Buffer::from_slice(device, &random_values(length, 1))?;
    let gradients = Buffer::from_slice(device, &random_values(length, 2))?;
    let mut optimizer = AdamW::new(device, length, kind)?;
    let frozen = (share > 0.0).then(|| random_mask(length, 3, share));
    serve(|| {
        let gradient =
            Gradient { values: gradients.view().into(), scale: 0.5, clip: None, frozen: frozen.as_ref() };
        optimizer.step(weights.view_mut(), gradient, &Hyper::default())
    })
}

fn interpolate(device: &Device, length: usize, delta: bool) -> Result<()> {
    let layout = Layout::new([("pair", vec![length])])?;
    let mut backbone = Buffer::from_slice(device, &random_values(layout.len(), 1))?;
    let other = Buffer::from_slice(device, &random_values(layout.len(), 2))?;
    let base = Buffer::from_slice(device, &random_values(if delta { layout.len() } else { 0 }, 3))?;
    let options =
        slerp::Options { weight: 0.3, base: delta.then(|| base.view()), ..slerp::Options::default() };
    serve(|| slerp::slerp(device, &layout, backbone.view_mut(), other.view(), &options).map(drop))
}

fn selection(device: &Device, length: usize, fraction: f64) -> Result<()> {
    let layout = Layout::new([("scores", vec![length])])?;
    let scores = Buffer::from_slice(device, &random_values(layout.len(), 1))?;
    let options = select::Options { fraction, ..select::Options::default() };
    serve(|| select::select(device, &layout, scores.view(), &options, |_| true).map(drop))
}
