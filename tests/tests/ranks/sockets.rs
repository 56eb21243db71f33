//! Ranks that speak by TCP, as threads of this process that find each other as processes do.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use cpift_engine::ranks::sockets::{Rendezvous, Sockets};
use cpift_engine::ranks::{Collective, Launcher, Loss, Place, ranges};
use cpift_engine::{Buffer, Device, Ranks, Result};
use cpift_tests::numeric::random;
use cpift_tests::ranks::fresh_seed;

/// Where nobody else meets.
fn rendezvous() -> Rendezvous {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    Rendezvous {
        host: "127.0.0.1".to_owned(),
        port: free.local_addr().unwrap().port(),
        job: format!("{}", fresh_seed()),
        patience: Duration::from_secs(30),
    }
}

fn place(rank: usize, size: usize) -> Place {
    Place { rank, size, local_rank: rank, launcher: Launcher::Own }
}

/// A rank, and what it says when it misses others.
fn meet(place: Place, rendezvous: &Rendezvous) -> Result<(Arc<Sockets>, Receiver<Loss>)> {
    let (sender, losses) = channel();
    let on_loss = Arc::new(move |loss| {
        let _ = sender.send(loss);
    });
    Ok((Arc::new(Sockets::meet(&place, rendezvous, on_loss)?), losses))
}

/// What each of `size` ranks makes of `work`, in their order.
fn each<T: Send>(size: usize, work: impl Fn(Arc<Sockets>, Receiver<Loss>) -> T + Sync) -> Vec<T> {
    let (work, rendezvous) = (&work, &rendezvous());
    thread::scope(|scope| {
        let start = |rank| {
            scope.spawn(move || {
                let (sockets, losses) = meet(place(rank, size), rendezvous).unwrap();
                work(sockets, losses)
            })
        };
        let ranks: Vec<_> = (0..size).map(start).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn operations_are_those_of_threads() {
    let seed = fresh_seed();
    let device = Device::cpu(std::num::NonZeroUsize::new(1)).unwrap();
    // More than goes at a time, and less than a word for each.
    for length in [0, 65, 2_500_003] {
        let of_rank = |rank: usize| random(seed.wrapping_add(rank as u64), length);
        let mut sums = of_rank(0);
        for rank in 1..3 {
            sums.iter_mut().zip(of_rank(rank)).for_each(|(sum, value)| *sum += value);
        }
        let parts = ranges(length, 3);
        each(3, |sockets, losses| {
            let collective: Arc<dyn Collective> = sockets.clone();
            let ranks = Ranks::new(collective);
            let mut values = Buffer::from_slice(&device, &of_rank(ranks.rank())).unwrap();
            ranks.reduce_scatter(values.view_mut(), &parts).unwrap();
            let own = parts[ranks.rank()].clone();
            assert!(values.slice(own.clone()).to_vec().unwrap() == sums[own], "seed {seed}: {length}");
            ranks.all_gather(values.view_mut(), &parts).unwrap();
            assert!(values.to_vec().unwrap() == sums, "seed {seed}: {length}");
            let mut counts = [ranks.rank() as u64, 1];
            ranks.count(&mut counts).unwrap();
            assert_eq!(counts, [3, 3]);
            let mut of_first = vec![ranks.rank() as u8; length];
            ranks.broadcast_slice(&mut of_first).unwrap();
            assert!(of_first == vec![0; length]);
            sockets.finish().unwrap();
            drop((ranks, sockets));
            assert!(losses.recv().is_err(), "nobody is missed");
        });
    }
}

#[test]
fn a_rank_that_ends_is_missed_and_one_that_fails_is_believed() {
    let found = each(3, |sockets, losses| match sockets.rank() {
        1 => None,
        _ => Some(losses.recv_timeout(Duration::from_secs(20)).ok()),
    });
    // It is connected with rank 0 alone, which passes it on.
    assert_eq!(found[0], Some(Some(Loss::Gone("rank 1 has ended".to_owned()))));
    assert_eq!(found[2], Some(Some(Loss::Failed(1))));

    let found = each(2, |sockets, losses| match sockets.rank() {
        1 => {
            sockets.fail(2);
            None
        }
        _ => losses.recv_timeout(Duration::from_secs(20)).ok(),
    });
    assert_eq!(found[0], Some(Loss::Failed(2)));
}

#[test]
fn ranks_that_come_to_different_operations_are_told() {
    for message in each(2, |sockets, _losses| match sockets.rank() {
        0 => sockets.broadcast(&mut [0; 3]).and_then(|()| sockets.barrier()).unwrap_err().to_string(),
        _ => {
            let refused = sockets.broadcast(&mut [0; 4]).unwrap_err().to_string();
            let _ = sockets.all_gather(&mut [0; 2], &[0..1, 1..2]);
            refused
        }
    }) {
        assert!(message.contains("came to") && message.contains("and this one to"), "{message}");
    }
}

#[test]
fn ranks_that_cannot_meet_say_why() {
    let short = Rendezvous { patience: Duration::from_millis(1500), ..rendezvous() };
    let error = |place, rendezvous: &Rendezvous| meet(place, rendezvous).unwrap_err().to_string();
    let missing = error(place(0, 3), &short);
    assert!(missing.contains("ranks 1, 2 have not come to 127.0.0.1:"), "{missing}");
    let unreached = error(place(1, 2), &short);
    assert!(
        unreached.contains(&format!("rank 0 was not reached at 127.0.0.1:{}", short.port)),
        "{unreached}"
    );
    let unknown = error(place(1, 2), &Rendezvous { host: "no such host".to_owned(), ..short.clone() });
    assert!(unknown.contains("`no such host`, is not known"), "{unknown}");

    // Another job at the same port, one that thinks it is of another size, and one that is there twice.
    let other = Rendezvous { job: "other".to_owned(), ..short.clone() };
    let (first, second) = thread::scope(|scope| {
        let first = scope.spawn(|| error(place(0, 2), &short));
        let second = scope.spawn(|| error(place(1, 2), &other));
        (first.join().unwrap(), second.join().unwrap())
    });
    assert!(first.contains("rank 1 has not come") && second.contains("was not reached"), "{first} {second}");
    let patient = rendezvous();
    let (first, second) = thread::scope(|scope| {
        let first = scope.spawn(|| error(place(0, 2), &patient));
        let second = scope.spawn(|| error(place(1, 3), &patient));
        (first.join().unwrap(), second.join().unwrap())
    });
    assert!(first.contains("rank 1 was started as one of 3, and rank 0 as one of 2"), "{first}");
    assert!(second.contains("rank 1 was started as one of 3, and rank 0 not"), "{second}");
}

/// As where a launcher has a service of its own at the port that it names.
#[test]
fn a_port_that_is_taken_is_passed_by() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let rendezvous = Rendezvous { port, ..rendezvous() };
    thread::scope(|scope| {
        let first = scope.spawn(|| meet(place(0, 2), &rendezvous).unwrap().0.finish().unwrap());
        let second = scope.spawn(|| meet(place(1, 2), &rendezvous).unwrap().0.finish().unwrap());
        first.join().unwrap();
        second.join().unwrap();
    });
    let all: Vec<_> =
        (port + 1..port + 8).filter_map(|port| TcpListener::bind(("127.0.0.1", port)).ok()).collect();
    let short = Rendezvous { patience: Duration::from_millis(300), ..rendezvous };
    let refused = meet(place(0, 2), &short).unwrap_err().to_string();
    // Unless another program has given one of them back meanwhile.
    let expected = if all.len() == 7 { "cannot listen at any of the ports" } else { "" };
    assert!(refused.contains(expected), "{refused}");
}
