//! Where the ranks of one communicator meet: a thread of rank 0's process.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread::{sleep, spawn};
use std::time::Duration;

use super::{Element, HEADER, Header, Kind};
use crate::state::violation;
use cudarc::driver::sys::CUresult;

/// All ranks have come to the same.
pub const AGREED: u8 = 1;
/// They have not.
const DISAGREED: u8 = 2;

/// What an identification begins with.
const MARK: [u8; 8] = *b"stand-in";

/// A hub for ranks to come; what they find it by.
pub fn open() -> std::io::Result<[u8; 128]> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    spawn(move || {
        let outcome = meet(&listener).and_then(serve);
        if outcome.is_err() {
            // A rank is gone. The others wait for it, as on hardware.
            loop {
                sleep(Duration::from_secs(1));
            }
        }
    });
    let mut identification = [0; 128];
    identification[..8].copy_from_slice(&MARK);
    identification[8..10].copy_from_slice(&port.to_le_bytes());
    Ok(identification)
}

/// Who a rank is when it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Introduction {
    /// It.
    pub rank: u32,
    /// How many it knows of.
    pub size: u32,
    /// Its process.
    pub process: u32,
    /// Its device.
    pub device: u32,
}

/// Comes to a hub, and waits until all have; none where the hub does not want it, or is none.
pub fn come(identification: [u8; 128], introduction: Introduction) -> Option<TcpStream> {
    if identification[..8] != MARK {
        return None;
    }
    let port = u16::from_le_bytes([identification[8], identification[9]]);
    let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).ok()?;
    stream.set_nodelay(true).ok()?;
    let Introduction { rank, size, process, device } = introduction;
    for number in [rank, size, process, device] {
        stream.write_all(&number.to_le_bytes()).ok()?;
    }
    let mut status = [0];
    stream.read_exact(&mut status).ok()?;
    (status[0] == AGREED).then_some(stream)
}

/// Waits for all ranks.
fn meet(listener: &TcpListener) -> std::io::Result<Vec<TcpStream>> {
    let mut came: Vec<(Introduction, TcpStream)> = Vec::new();
    while came.first().is_none_or(|(first, _)| came.len() < first.size as usize) {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut number = || {
            let mut bytes = [0; 4];
            stream.read_exact(&mut bytes).map(|()| u32::from_le_bytes(bytes))
        };
        let introduction =
            Introduction { rank: number()?, size: number()?, process: number()?, device: number()? };
        came.push((introduction, stream));
    }
    came.sort_by_key(|(introduction, _)| introduction.rank);
    let size = came.len();
    let is_right = |(index, (introduction, _)): (usize, &(Introduction, TcpStream))| {
        introduction.rank as usize == index && introduction.size as usize == size
    };
    // Two processes with one device, which NCCL refuses.
    let is_twice = |(index, (one, _)): (usize, &(Introduction, TcpStream))| {
        came[..index].iter().any(|(other, _)| one.device == other.device && one.process != other.process)
    };
    let refused = !came.iter().enumerate().all(is_right) || came.iter().enumerate().any(is_twice);
    for (_, stream) in &mut came {
        stream.write_all(&[if refused { DISAGREED } else { AGREED }])?;
    }
    Ok(came.into_iter().map(|(_, stream)| stream).collect())
}

/// Makes operations until a rank is gone.
fn serve(mut ranks: Vec<TcpStream>) -> std::io::Result<()> {
    loop {
        let mut brought: Vec<(Option<Header>, Vec<u8>)> = Vec::new();
        let size = ranks.len();
        for stream in &mut ranks {
            let mut header = [0; HEADER];
            stream.read_exact(&mut header)?;
            let header = Header::from_bytes(header);
            let mut sent = vec![0; header.map_or(0, |header| header.sent(size) * header.element.bytes())];
            stream.read_exact(&mut sent)?;
            brought.push((header, sent));
        }
        let first = brought[0].0;
        let Some(header) = first.filter(|_| brought.iter().all(|(header, _)| *header == first)) else {
            for stream in &mut ranks {
                stream.write_all(&[DISAGREED])?;
            }
            continue;
        };
        let sent: Vec<&[u8]> = brought.iter().map(|(_, sent)| sent.as_slice()).collect();
        for (rank, stream) in ranks.iter_mut().enumerate() {
            stream.write_all(&[AGREED])?;
            stream.write_all(&result(&header, &sent, rank))?;
        }
    }
}

/// What a rank receives of what all have sent.
fn result(header: &Header, sent: &[&[u8]], rank: usize) -> Vec<u8> {
    match header.kind {
        Kind::Reduce if rank != header.root => Vec::new(),
        Kind::Reduce | Kind::AllReduce => sum(header.element, sent),
        Kind::ReduceScatter => {
            let bytes = header.count * header.element.bytes();
            let parts: Vec<&[u8]> = sent.iter().map(|sent| &sent[rank * bytes..][..bytes]).collect();
            sum(header.element, &parts)
        }
        Kind::Broadcast => sent.get(header.root).map_or_else(Vec::new, |sent| sent.to_vec()),
        Kind::AllGather => sent.concat(),
    }
}

/// The sum in the order of the ranks.
fn sum(element: Element, sent: &[&[u8]]) -> Vec<u8> {
    fn added<const BYTES: usize, T: std::ops::Add<Output = T> + Copy>(
        sent: &[&[u8]],
        read: fn([u8; BYTES]) -> T,
        write: fn(T) -> [u8; BYTES],
    ) -> Vec<u8> {
        let numbers = |bytes: &[u8]| bytes.as_chunks::<BYTES>().0.iter().map(|bytes| read(*bytes)).collect();
        let mut sums: Vec<T> = numbers(sent[0]);
        for sent in &sent[1..] {
            let others: Vec<T> = numbers(sent);
            sums.iter_mut().zip(others).for_each(|(sum, other)| *sum = *sum + other);
        }
        sums.into_iter().flat_map(write).collect()
    }
    match element {
        Element::F32 => added(sent, f32::from_ne_bytes, f32::to_ne_bytes),
        Element::F64 => added(sent, f64::from_ne_bytes, f64::to_ne_bytes),
        Element::Byte => {
            let _ = violation(CUresult::CUDA_ERROR_INVALID_VALUE, "a sum of bytes");
            sent[0].to_vec()
        }
    }
}
