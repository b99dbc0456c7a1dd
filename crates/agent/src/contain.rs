//! Where a panic stays. Outside of what is marked here a panic ends the machine (`pid1::exit`): half an agent is worse than
//! none. A command that panics has failed, and a request that panics is not answered; the agent goes on.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};

tokio::task_local! {
    static MARKED: ();
}

/// Commands that run now. They use threads that carry no mark.
static COMMANDS: AtomicUsize = AtomicUsize::new(0);

/// Whether the panic that is being raised stays where it is. For the panic hook; decides by the thread that asks.
///
/// While a command runs, a panic on any thread but the main one is taken to be its own: killing a machine whose disk is
/// being written for a fault elsewhere would be the greater harm.
pub fn is_contained() -> bool {
    let on_main = || std::thread::current().name() == Some("main");
    MARKED.try_with(|()| ()).is_ok() || (COMMANDS.load(Ordering::SeqCst) > 0 && !on_main())
}

/// Runs a request: a panic in it is its own.
pub async fn request<F: Future>(future: F) -> F::Output {
    MARKED.scope((), future).await
}

/// Runs something that does not wait: a panic in it is caught inside, and stays there.
pub fn marked<T>(call: impl FnOnce() -> T) -> T {
    MARKED.sync_scope((), call)
}

/// Runs a command, on a task of its own. A panic comes back as its text.
pub async fn command<F>(future: F) -> Result<F::Output, String>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    struct Running;
    impl Drop for Running {
        fn drop(&mut self) {
            COMMANDS.fetch_sub(1, Ordering::SeqCst);
        }
    }
    COMMANDS.fetch_add(1, Ordering::SeqCst);
    let running = Running;
    let task = tokio::spawn(MARKED.scope((), async move {
        // Dropped after the future: what it spawned has ended then, or is on its own.
        let _running = running;
        future.await
    }));
    task.await.map_err(|error| match error.try_into_panic() {
        Ok(payload) => text(payload.as_ref()),
        Err(error) => error.to_string(),
    })
}

/// What a panic said.
fn text(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no text".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_of_a_command_comes_back_as_text() {
        assert_eq!(command(async { 7 }).await, Ok(7));
        let number = 5;
        let panicked = command(async move {
            assert!(is_contained());
            assert_eq!(number, 6, "numbers differ");
        });
        let text = panicked.await.unwrap_err();
        assert!(text.contains("numbers differ"), "{text}");
    }

    #[tokio::test]
    async fn requests_are_contained_and_other_tasks_are_not() {
        assert!(request(async { is_contained() }).await);
        // Other tests of this process may run commands at the same time; the mark alone is looked at.
        assert!(MARKED.try_with(|()| ()).is_err());
        assert!(tokio::spawn(async { MARKED.try_with(|()| ()).is_err() }).await.unwrap());
    }
}
