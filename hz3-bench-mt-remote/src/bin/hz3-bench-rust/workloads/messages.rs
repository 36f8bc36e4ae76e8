//! Messages: producers send boxed messages through channels, and consumers read and drop them.
//!
//! Every block is made by one thread and freed by another, which allocates nothing itself: servers that parse in one
//! thread and work in others. With a single thread there is one more, which consumes.

use super::work::{Random, in_threads, mix_bytes};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Messages that each producer sends per round.
const MESSAGES: usize = 8_000; // chosen
/// Messages that wait at most for a consumer: bounded, so that memory is too.
const WAITING: usize = 1_024; // chosen

struct Message {
    subject: String,
    parts: Vec<Box<[u8]>>,
}

impl Message {
    fn draw(random: &mut Random) -> Box<Message> {
        let subject = random.word(30);
        let parts = (0..random.below(4)).map(|part| vec![part as u8; 16 + random.below(600)].into()).collect();
        Box::new(Message { subject, parts })
    }

    fn checksum(&self) -> u64 {
        let bytes: usize = self.parts.iter().map(|part| part.len() + usize::from(part[0])).sum();
        mix_bytes(bytes as u64, self.subject.as_bytes())
    }
}

/// One half of the threads produces, the other half consumes; each producer sends to each consumer in turn.
pub fn run(threads: usize, rounds: usize) -> u64 {
    let pairs = threads.div_ceil(2);
    let channels: Vec<_> = (0..pairs).map(|_| sync_channel(WAITING)).collect();
    // Each producer has the senders of its own, which it drops at its end: consumers wait until all have.
    let senders: Mutex<Vec<Vec<SyncSender<Box<Message>>>>> =
        Mutex::new((0..pairs).map(|_| channels.iter().map(|(sender, _)| sender.clone()).collect()).collect());
    let receivers: Mutex<Vec<Receiver<Box<Message>>>> =
        Mutex::new(channels.into_iter().map(|(_, receiver)| receiver).collect());
    in_threads(2 * pairs, |index| {
        if index < pairs {
            let senders = senders.lock().expect("no holder panics").pop().expect("one for each producer");
            produce(index, rounds, &senders)
        } else {
            let receiver = receivers.lock().expect("no holder panics").pop().expect("one for each consumer");
            // The order in which messages of several producers come is no one's: sums do not depend on it.
            receiver.iter().map(|message| message.checksum()).fold(0, u64::wrapping_add)
        }
    })
}

fn produce(index: usize, rounds: usize, senders: &[SyncSender<Box<Message>>]) -> u64 {
    let mut random = Random::new(index);
    for number in 0..rounds * MESSAGES {
        let sent = senders[number % senders.len()].send(Message::draw(&mut random));
        sent.expect("consumers outlive producers");
    }
    0
}
