//! Embedding: the forward copies bits, the backward adds in the order of positions, so bits are compared.

use std::collections::BTreeMap;

use crate::common::*;
use cpift_kernels::embedding::*;
use cpift_kernels::emulator::Emulator;
use cpift_kernels::simt::{Bf16, Real};

/// Tokens, vocabulary, columns.
const SHAPES: [(usize, u32, usize); 6] =
    [(1, 1, 1), (37, 11, 13), (40, 7, 64), (9, 30, 264), (70, 3, 520), (5, 6, 1031)];

fn check<E: Real + PartialEq + std::fmt::Debug>(rows: usize, vocabulary: u32, columns: usize, offset: usize) {
    let tokens: Vec<u32> = (0..rows as u64).map(|n| (bits(9, n) % u64::from(vocabulary)) as u32).collect();
    let table = random::<E>(1, vocabulary as usize * columns + offset);
    let d_output = random::<E>(2, rows * columns + offset);
    let before = random::<f32>(3, vocabulary as usize * columns + offset);

    let mut groups = BTreeMap::<u32, Vec<u32>>::new();
    for (position, &token) in (0u32..).zip(&tokens) {
        groups.entry(token).or_default().push(position);
    }
    let mut sums = before.as_slice().to_vec();
    for (&token, positions) in &groups {
        for column in 0..columns {
            let sum = &mut sums[offset + token as usize * columns + column];
            for &position in positions {
                *sum += d_output.as_slice()[offset + position as usize * columns + column].to_f32();
            }
        }
    }
    let group_tokens: Vec<u32> = groups.keys().copied().collect();
    let positions: Vec<u32> = groups.values().flatten().copied().collect();
    let mut starts = vec![0];
    starts.extend(groups.values().scan(0, |end, group| {
        *end += group.len() as u32;
        Some(*end)
    }));

    for schedule in SCHEDULES {
        let emulator = Emulator::new(schedule);
        let mut output = Buffer::<E>::poisoned(rows * columns + offset);
        embedding(
            &emulator,
            slice(&table.as_slice()[offset..]),
            slice(&tokens),
            slice_mut(&mut output.as_mut_slice()[offset..]),
            rows as u64,
            vocabulary,
            columns as u32,
        )
        .unwrap();
        let output = output.as_slice()[offset..].chunks_exact(columns);
        for (row, &token) in output.zip(&tokens) {
            let expected = &table.as_slice()[offset + token as usize * columns..][..columns];
            assert_eq!(row, expected, "token {token}");
        }

        let mut d_table = Buffer::from_slice(before.as_slice());
        embedding_backward(
            &emulator,
            slice(&d_output.as_slice()[offset..]),
            slice(&positions),
            slice(&starts),
            slice(&group_tokens),
            slice_mut(&mut d_table.as_mut_slice()[offset..]),
            rows as u64,
            groups.len() as u32,
            vocabulary,
            columns as u32,
        )
        .unwrap();
        assert_eq!(to_bits(d_table.as_slice()), to_bits(&sums), "{rows} × {columns}");
    }
}

#[test]
fn copies_and_adds() {
    for (rows, vocabulary, columns) in SHAPES {
        for offset in [0, 1] {
            check::<f32>(rows, vocabulary, columns, offset);
            check::<Bf16>(rows, vocabulary, columns, offset);
        }
    }
}
