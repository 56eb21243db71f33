//! How ranks find each other: rank 0 listens, the others connect, twice each.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use super::super::Place;
use crate::error::{Error, Result};

/// What connections begin with: others may come to a port too.
const GREETING: [u8; 16] = *b"cpift-engine/1\r\n";
/// What rank 0's answers begin with.
const ANSWERED: [u8; 16] = *b"cpift-engine/1 :";
/// Ports that are tried, from the one that is named: a launcher may serve at that one itself, as torchrun does.
const PORTS: u16 = 8;
/// How long to wait for an answer, and between attempts.
const ANSWER: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);

/// Where and when ranks meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendezvous {
    /// Rank 0's host, by name or number.
    pub host: String,
    /// The first port that rank 0 tries.
    pub port: u16,
    /// What the ranks of one job have in common and others do not: two jobs may meet on one machine.
    pub job: String,
    /// How long they wait for each other.
    pub patience: Duration,
}

/// The connections of a rank, with the number of the rank at the other end.
pub(super) struct Connected {
    /// For messages.
    pub messages: Vec<(usize, TcpStream)>,
    /// For [`Heartbeat`](super::Heartbeat).
    pub heartbeats: Vec<(usize, TcpStream)>,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Purpose {
    Messages = 1,
    Heartbeat,
}

/// What a rank says of itself when it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Introduction {
    purpose: u8,
    rank: u64,
    size: u64,
}

/// What rank 0 answers.
const WELCOME: u8 = 1;
const ANOTHER_SIZE: u8 = 2;
const TAKEN: u8 = 3;

impl Rendezvous {
    /// Waits until all ranks have come.
    pub(super) fn meet(&self, place: &Place) -> Result<Connected> {
        match place.rank {
            0 => self.receive_all(place.size),
            _ => self.connect_all(place),
        }
    }

    /// None where it is too far to be a time.
    fn deadline(&self) -> Option<Instant> {
        Instant::now().checked_add(self.patience)
    }

    fn ports(&self) -> RangeInclusive<u16> {
        self.port..=self.port.saturating_add(PORTS - 1)
    }

    fn receive_all(&self, size: usize) -> Result<Connected> {
        let deadline = self.deadline();
        let listener = self.listen()?;
        let mut came: [Vec<Option<TcpStream>>; 2] =
            std::array::from_fn(|_| (1..size).map(|_| None).collect());
        while came.iter().flatten().any(Option::is_none) {
            match listener.accept() {
                Ok((stream, _)) => self.receive(stream, &mut came)?,
                // None, or one that is gone again.
                Err(_) => std::thread::sleep(PAUSE),
            }
            if is_over(deadline) && came.iter().flatten().any(Option::is_none) {
                return Err(self.missing(&listener, &came));
            }
        }
        let [messages, heartbeats] = came.map(|streams| {
            let of_rank = |(index, stream): (usize, Option<TcpStream>)| Some((index + 1, stream?));
            streams.into_iter().enumerate().filter_map(of_rank).collect()
        });
        Ok(Connected { messages, heartbeats })
    }

    /// Takes a connection in, if it is that of a rank of this job.
    fn receive(&self, mut stream: TcpStream, came: &mut [Vec<Option<TcpStream>>; 2]) -> Result<()> {
        let Ok(introduction) = self.be_introduced(&mut stream) else { return Ok(()) };
        let Introduction { purpose, rank, size } = introduction;
        let streams = &mut came[usize::from(purpose == Purpose::Heartbeat as u8)];
        let expected = streams.len() + 1;
        let reason = if size != expected as u64 {
            let _ = stream.write_all(&answer(ANOTHER_SIZE));
            format!("rank {rank} was started as one of {size}, and rank 0 as one of {expected}")
        } else {
            let place = usize::try_from(rank).ok().and_then(|rank| streams.get_mut(rank.checked_sub(1)?));
            match place {
                // It may have come before, and not waited for the answer.
                Some(place) if place.as_ref().is_none_or(is_closed) => {
                    if stream.write_all(&answer(WELCOME)).is_ok() {
                        *place = Some(stream);
                    }
                    return Ok(());
                }
                Some(_) | None => {
                    let _ = stream.write_all(&answer(TAKEN));
                    format!("two processes were started as rank {rank}")
                }
            }
        };
        Err(Error::Ranks { reason })
    }

    /// Who is at the other end of a connection.
    fn be_introduced(&self, stream: &mut TcpStream) -> std::io::Result<Introduction> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(ANSWER))?;
        let expected = self.greeting();
        let mut greeting = vec![0; expected.len()];
        stream.read_exact(&mut greeting)?;
        if greeting != expected {
            return Err(ErrorKind::InvalidData.into());
        }
        let mut bytes = [0; 17];
        stream.read_exact(&mut bytes)?;
        let number = |start: usize| u64::from_le_bytes(std::array::from_fn(|byte| bytes[start + byte]));
        prepare(stream)?;
        Ok(Introduction { purpose: bytes[0], rank: number(1), size: number(9) })
    }

    fn missing(&self, listener: &TcpListener, came: &[Vec<Option<TcpStream>>; 2]) -> Error {
        let is_missing = |index: &usize| came.iter().any(|streams| streams[*index].is_none());
        let ranks: Vec<String> =
            (0..came[0].len()).filter(is_missing).map(|index| (index + 1).to_string()).collect();
        let (noun, verb) = if ranks.len() == 1 { ("rank", "has") } else { ("ranks", "have") };
        let port = listener.local_addr().map_or(self.port, |address| address.port());
        let reason = format!(
            "{noun} {} {verb} not come to {}:{port} within {} s",
            ranks.join(", "),
            self.host,
            self.patience.as_secs()
        );
        Error::Ranks { reason }
    }

    /// Listens at the first port that is free. Only on this machine where the host is itself.
    fn listen(&self) -> Result<TcpListener> {
        let failed = |reason: String| Error::Ranks { reason };
        let addresses = self.addresses(self.port).map_err(failed)?;
        // Not by what a name stands for: that of a machine often is an address which it alone has.
        let is_local =
            self.host.parse().map_or(self.host == "localhost", |address: IpAddr| address.is_loopback());
        let all: IpAddr = match addresses.first() {
            Some(address) if is_local => address.ip(),
            Some(SocketAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
            _ => Ipv4Addr::UNSPECIFIED.into(),
        };
        let mut outcome = Err(failed(String::new()));
        for port in self.ports() {
            let listening = TcpListener::bind((all, port)).and_then(|listener| {
                listener.set_nonblocking(true)?;
                Ok(listener)
            });
            outcome = listening.map_err(|error| {
                failed(format!(
                    "rank 0 cannot listen at any of the ports {} to {port} of {all}: {error}; MASTER_PORT names \
                     another",
                    self.port
                ))
            });
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    /// In words, why there are none.
    fn addresses(&self, port: u16) -> std::result::Result<Vec<SocketAddr>, String> {
        let unknown =
            |reason: String| format!("the address of rank 0, `{}`, is not known: {reason}", self.host);
        let found =
            (self.host.as_str(), port).to_socket_addrs().map_err(|error| unknown(error.to_string()))?;
        let addresses: Vec<SocketAddr> = found.collect();
        if addresses.is_empty() { Err(unknown("it has none".to_owned())) } else { Ok(addresses) }
    }

    fn connect_all(&self, place: &Place) -> Result<Connected> {
        let deadline = self.deadline();
        let [messages, heartbeat] =
            [Purpose::Messages, Purpose::Heartbeat].map(|purpose| self.connect(place, purpose, deadline));
        Ok(Connected { messages: vec![(0, messages?)], heartbeats: vec![(0, heartbeat?)] })
    }

    /// Connects with rank 0, which may not be there yet.
    fn connect(&self, place: &Place, purpose: Purpose, deadline: Option<Instant>) -> Result<TcpStream> {
        loop {
            let mut reason = String::new();
            for port in self.ports() {
                match self.attempt(place, purpose, port) {
                    Ok(stream) => return Ok(stream),
                    Err(Attempt::Refused(reason)) => return Err(Error::Ranks { reason }),
                    // What is said of the port that was named.
                    Err(Attempt::NotThere(error)) if port == self.port => reason = error,
                    Err(Attempt::NotThere(_)) => {}
                }
            }
            if is_over(deadline) {
                let reason = format!(
                    "rank 0 was not reached at {}:{} within {} s: {reason}",
                    self.host,
                    self.port,
                    self.patience.as_secs()
                );
                return Err(Error::Ranks { reason });
            }
            std::thread::sleep(PAUSE * 5);
        }
    }

    fn attempt(&self, place: &Place, purpose: Purpose, port: u16) -> std::result::Result<TcpStream, Attempt> {
        let addresses = self.addresses(port).map_err(Attempt::NotThere)?;
        let mut outcome = Err(Attempt::NotThere("it has no address".to_owned()));
        for address in addresses {
            outcome = self.introduce(place, purpose, address);
            if !matches!(outcome, Err(Attempt::NotThere(_))) {
                break;
            }
        }
        outcome
    }

    fn introduce(
        &self,
        place: &Place,
        purpose: Purpose,
        address: SocketAddr,
    ) -> std::result::Result<TcpStream, Attempt> {
        let not_there = |error: std::io::Error| Attempt::NotThere(error.to_string());
        let mut stream = TcpStream::connect_timeout(&address, ANSWER).map_err(not_there)?;
        let mut message = self.greeting();
        message.push(purpose as u8);
        message.extend((place.rank as u64).to_le_bytes());
        message.extend((place.size as u64).to_le_bytes());
        let mut answered = answer(0);
        stream
            .set_read_timeout(Some(ANSWER))
            .and_then(|()| stream.write_all(&message))
            .and_then(|()| stream.read_exact(&mut answered))
            .map_err(not_there)?;
        let (greeting, status) = answered.split_at(ANSWERED.len());
        if greeting != ANSWERED {
            return Err(Attempt::NotThere("something else listens there".to_owned()));
        }
        match status[0] {
            WELCOME => prepare(&stream).map(|()| stream).map_err(not_there),
            ANOTHER_SIZE => Err(Attempt::Refused(format!(
                "rank {} was started as one of {}, and rank 0 not",
                place.rank, place.size
            ))),
            _ => Err(Attempt::Refused(format!("two processes were started as rank {}", place.rank))),
        }
    }

    /// What a connection to rank 0 begins with.
    fn greeting(&self) -> Vec<u8> {
        let mut greeting = GREETING.to_vec();
        greeting.extend((self.job.len() as u64).to_le_bytes());
        greeting.extend(self.job.as_bytes());
        greeting
    }
}

/// Why there is no connection.
enum Attempt {
    /// Another attempt may have more luck.
    NotThere(String),
    /// Rank 0 does not want it.
    Refused(String),
}

fn is_over(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| Instant::now() > deadline)
}

/// Whether the other end of a connection, of which nothing is due yet, is gone.
fn is_closed(stream: &TcpStream) -> bool {
    let peeked = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut [0]));
    let _ = stream.set_nonblocking(false);
    !matches!(peeked, Err(error) if error.kind() == ErrorKind::WouldBlock)
}

fn answer(status: u8) -> Vec<u8> {
    let mut answer = ANSWERED.to_vec();
    answer.push(status);
    answer
}

/// Makes a connection one of ranks: messages go at once, and are waited for without end.
fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(None)
}
