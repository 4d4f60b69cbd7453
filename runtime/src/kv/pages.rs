//! The pages of the growing caches, by who uses them.

/// Pages with a count of users each: sequences, and stored prefixes. A page number stands for that page of every growing
/// cache. Who alone uses a page may write to it.
pub struct PagePool {
    /// Pages that nobody uses; the last is given out first.
    free: Vec<i32>,
    /// Users of each page.
    users: Vec<u32>,
}

impl PagePool {
    /// So many pages, all free. `pages` is at most what an `i32` can number.
    pub fn new(pages: u64) -> PagePool {
        PagePool { free: (0..pages as i32).rev().collect(), users: vec![0; pages as usize] }
    }

    /// Pages that nobody uses.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Takes `count` pages, of one user each. `None`: fewer are free, and none was taken.
    pub fn take(&mut self, count: usize) -> Option<Vec<i32>> {
        let first = self.free.len().checked_sub(count)?;
        let mut pages = self.free.split_off(first);
        pages.reverse();
        pages.iter().for_each(|page| self.users[*page as usize] = 1);
        Some(pages)
    }

    /// Each of `pages`, which are in use, has one user more.
    pub fn share(&mut self, pages: &[i32]) {
        pages.iter().for_each(|page| self.users[*page as usize] += 1);
    }

    /// Each of `pages` has one user less.
    pub fn release(&mut self, pages: &[i32]) {
        for page in pages.iter().rev() {
            let users = &mut self.users[*page as usize];
            *users -= 1;
            if *users == 0 {
                self.free.push(*page);
            }
        }
    }

    /// Users of a page.
    pub fn users(&self, page: i32) -> u32 {
        self.users[page as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_free_when_its_last_user_lets_go() {
        let mut pool = PagePool::new(4);
        let pages = pool.take(3).unwrap();
        assert_eq!((pages.as_slice(), pool.free()), (&[0, 1, 2][..], 1));
        assert_eq!(pool.take(2), None);
        pool.share(&pages[..2]);
        pool.release(&pages);
        assert_eq!((pool.free(), pool.users(0), pool.users(2)), (2, 1, 0));
        assert_eq!(pool.take(2), Some(vec![2, 3]), "not those that are in use");
        pool.release(&[0, 1]);
        assert_eq!(pool.take(2), Some(vec![0, 1]));
    }
}
