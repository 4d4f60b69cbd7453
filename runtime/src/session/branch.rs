//! Sequences that share a beginning: forks, shorter ones, and stored prefixes.

use super::sequence::{Sequence, SequenceId};
use super::state::Session;
use crate::error::{Error, ErrorKind, Result};
use crate::kv::Held;

impl Session {
    /// A new sequence with all that `id` has: tokens, those that wait too, and how it chooses, with the draw that comes
    /// next ([`Session::set_sampling`] with another seed tells the two apart). Pages of the growing caches are shared until
    /// one of the two writes to them, which is the last page alone; the windows of ring caches are copied.
    ///
    /// What either gives from then on, a sequence gives that was fed its tokens alone: on a CPU bit for bit. On a GPU most
    /// kernels give equal bits, too; those on bf16 tiles may round otherwise, since they are other functions for other
    /// counts of rows in a step, and an attention over whole contexts adds up parts that end elsewhere beside other
    /// contexts. On the models without experts that were tested, logits were within a relative error of 1.2e-2.
    ///
    /// Errors: all sequences are in use; no page is free for tokens that wait; a device's. Nothing has changed then.
    ///
    /// ```
    /// # use hyc_handmade::{Parts, Plain};
    /// # use hyc_runtime::{Session, SessionOptions};
    /// # fn main() -> hyc_runtime::Result<()> {
    /// # let mut session = Session::with_kernels(Parts::new().load()?, Box::new(Plain), &SessionOptions::default())?;
    /// let id = session.add_sequence()?;
    /// session.feed(id, &[1, 2, 3])?;
    /// session.step()?;
    /// let other = session.fork(id)?;
    /// session.feed(id, &[4])?;
    /// session.feed(other, &[5])?;
    /// let output = session.step()?;
    /// assert_eq!(output.logits.len(), 2, "two ways on from one prompt");
    /// # Ok(())
    /// # }
    /// ```
    pub fn fork(&mut self, id: SequenceId) -> Result<SequenceId> {
        let (from, to) = (self.place(id)?, self.free_slot()?);
        let page = self.model().plan().model.page as usize;
        let s = self.sequence(id)?;
        let (held, total) = (s.held, s.tokens.len());
        self.engine.copy_rings(from, to, held.written)?;
        let new = self.next_id();
        let s = self.sequence(id)?;
        let copy = Sequence {
            id: new,
            tokens: s.tokens.clone(),
            generated: s.generated.clone(),
            len: s.len,
            pages: s.pages[..s.len.div_ceil(page)].to_vec(),
            slot: to,
            held,
            sampler: s.sampler.clone(),
            chosen: s.chosen,
        };
        self.pool.share(&copy.pages);
        self.sequences[to] = Some(copy);
        if let Err(error) = self.make_room(to, total) {
            self.remove_sequence(new)?;
            return Err(error);
        }
        Ok(new)
    }

    /// Takes tokens back, waiting ones first, until `len` are left: afterwards the sequence gives what one gives that was
    /// fed these alone, to the bit where [`Session::fork`] says so. How it chooses stays as it is, draws included. `len` 0
    /// is always possible.
    ///
    /// Errors: fewer tokens than `len`; a ring cache that no longer holds the window before `len`, as the error says with
    /// the least length that is possible. A ring holds the last window and a chunk. Nothing has changed then.
    ///
    /// ```
    /// # use hyc_handmade::{Parts, Plain};
    /// # use hyc_runtime::{Session, SessionOptions};
    /// # fn main() -> hyc_runtime::Result<()> {
    /// # let mut session = Session::with_kernels(Parts::new().load()?, Box::new(Plain), &SessionOptions::default())?;
    /// let id = session.add_sequence()?;
    /// session.feed(id, &[1, 2, 3, 9, 9])?;
    /// let refused = session.step()?;
    /// session.truncate(id, 3)?;
    /// session.feed(id, &[4])?;
    /// assert_eq!(session.len(id)?, 4);
    /// # Ok(())
    /// # }
    /// ```
    pub fn truncate(&mut self, id: SequenceId, len: u64) -> Result<()> {
        let s = self.sequence(id)?;
        if len > s.tokens.len() as u64 {
            let message = format!("sequence {id} has {} tokens, not {len}", s.tokens.len());
            return Err(Error::new(ErrorKind::BadInput, message).help("`Session::len` says how many it has"));
        }
        let (keep, within) = (len as usize, len < s.len as u64);
        if within && len > 0 {
            self.check_windows(id, len, 1)?;
        }
        let page = self.model().plan().model.page as usize;
        let s = self.sequence_mut(id)?;
        s.shorten(keep);
        if keep == 0 {
            s.held = Held::default();
        }
        let dropped = s.pages.split_off(keep.div_ceil(page));
        self.pool.release(&dropped);
        Ok(())
    }

    /// Errors: a ring does not hold the window before `len` any more; what is possible is said in multiples of `step`.
    fn check_windows(&self, id: SequenceId, len: u64, step: u64) -> Result<()> {
        let held = self.sequence(id)?.held;
        let least = self.rings.iter().map(|ring| ring.least_len(held)).max().unwrap_or(1);
        if len >= least {
            return Ok(());
        }
        let least = least.next_multiple_of(step);
        let message = format!(
            "a ring cache does not hold the tokens before position {len} of sequence {id} any more: {least} is the least \
             length that is possible, beside 0"
        );
        Err(Error::new(ErrorKind::BadInput, message)
            .help("feed the tokens to a new sequence, or fork and save prefixes before they are needed"))
    }

    /// Keeps what the caches hold of the first `len` tokens of a sequence, down to the last border of a page, for sequences
    /// that begin with the same tokens ([`Session::add_sequence_with_prefix`]); returns how many tokens that are, 0 where
    /// they are fewer than a page. The sequence goes on as before, and may go. Pages are shared, the windows of ring caches
    /// copied. Where [`SessionOptions::prefixes`](crate::SessionOptions::prefixes) are kept already, the one goes that was
    /// used longest ago; so it does where a sequence needs its pages, if it has one that no sequence uses.
    ///
    /// A ring holds the last window and a chunk: a prompt is saved when it is through, what many prompts begin with when
    /// that part of one is, before the rest is fed.
    ///
    /// Errors: `len` tokens are not in the caches; a ring does not hold the window before the border any more; a session
    /// that keeps no prefixes; a device's.
    ///
    /// ```
    /// # use hyc_handmade::{Parts, Plain};
    /// # use hyc_runtime::{Session, SessionOptions};
    /// # fn main() -> hyc_runtime::Result<()> {
    /// # let model = Parts::new().load()?;
    /// let options = SessionOptions { prefixes: 8, ..SessionOptions::default() };
    /// let mut session = Session::with_kernels(model, Box::new(Plain), &options)?;
    /// let system = [1, 2, 3, 4, 5, 6, 7, 8, 9];
    /// let id = session.add_sequence()?;
    /// session.feed(id, &system)?;
    /// while session.pending(id)? > 0 {
    ///     session.step()?;
    /// }
    /// assert_eq!(session.save_prefix(id, session.len(id)?)?, 8, "two pages of 4 tokens");
    /// session.remove_sequence(id)?;
    /// // Another prompt that begins with the same.
    /// let prompt = [&system[..], &[2, 4, 6]].concat();
    /// let (id, held) = session.add_sequence_with_prefix(&prompt)?;
    /// session.feed(id, &prompt[held as usize..])?;
    /// assert_eq!((held, session.pending(id)?), (8, 4));
    /// # Ok(())
    /// # }
    /// ```
    pub fn save_prefix(&mut self, id: SequenceId, len: u64) -> Result<u64> {
        let s = self.sequence(id)?;
        if self.prefixes.capacity() == 0 {
            return Err(Error::new(ErrorKind::BadInput, "this session keeps no prefixes")
                .help("allow it some with `SessionOptions::prefixes`"));
        }
        if len > s.len as u64 {
            let message = format!("sequence {id} has {} tokens in the caches, not {len}", s.len);
            return Err(Error::new(ErrorKind::BadInput, message).help("run the steps of its prompt first"));
        }
        let page = self.model().plan().model.page;
        let border = len / page * page;
        if border == 0 {
            return Ok(0);
        }
        let (slot, tokens) = (s.slot, s.tokens[..border as usize].to_vec());
        let pages = s.pages[..(border / page) as usize].to_vec();
        if let Some(place) = self.prefixes.find(&tokens) {
            self.prefixes.touch(place);
            return Ok(border);
        }
        self.check_windows(id, border, page)?;
        let Some(place) = self.prefixes.vacate(&mut self.pool) else { return Ok(0) };
        self.engine.save_windows(slot, place, border)?;
        self.prefixes.put(place, tokens, pages, &mut self.pool);
        Ok(border)
    }

    /// How many of the first of `tokens` a stored prefix holds: whole pages, and fewer than all of them.
    pub fn stored_prefix(&self, tokens: &[u32]) -> u64 {
        self.prefixes.longest(tokens).map_or(0, |(_, len)| len as u64)
    }

    /// A new sequence for `tokens`, which holds as many of them as a stored prefix does; returns it with that number. Feed
    /// it the others, one at least. It gives what a sequence gives that was fed all of them, to the bit where
    /// [`Session::fork`] says so.
    ///
    /// Errors: all sequences are in use; a device's. Nothing has changed then.
    pub fn add_sequence_with_prefix(&mut self, tokens: &[u32]) -> Result<(SequenceId, u64)> {
        let Some((place, len)) = self.prefixes.longest(tokens) else { return Ok((self.add_sequence()?, 0)) };
        let slot = self.free_slot()?;
        let page = self.model().plan().model.page as usize;
        self.engine.load_windows(place, slot, len as u64)?;
        self.prefixes.touch(place);
        let mut s = Sequence::new(self.next_id(), slot);
        s.push(&tokens[..len]);
        s.len = len;
        s.held = Held { written: len as u64, restored: len as u64 };
        s.pages = self.prefixes.get(place).map_or(Vec::new(), |p| p.pages[..len / page].to_vec());
        self.pool.share(&s.pages);
        let id = s.id;
        self.sequences[slot] = Some(s);
        Ok((id, len as u64))
    }

    /// Lets go of all stored prefixes.
    pub fn forget_prefixes(&mut self) {
        self.prefixes.clear(&mut self.pool);
    }
}
