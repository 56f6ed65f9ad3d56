//! What a probe costs by the instruction that it stands on.

use ::object::{Object as _, ObjectSegment as _, ObjectSymbol as _};

use super::*;
use crate::tls::library::{Library, Site};
use crate::tls::placement::Placing;

/// Measures its functions in turn, many times, and says what a call of each takes at best and in the
/// middle, in nanoseconds. All do the same; each is for a probe at another instruction.
const PROGRAM: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#define SAME(name) __asm__(".text\n.globl " name "\n" name ":\n push %rbx\n mov %rdi, %rax\n" \
  " pop %rbx\n.globl " name "_ret\n" name "_ret:\n ret\n"); 
SAME("none") SAME("on_push") SAME("on_ret")
long none(long), on_push(long), on_ret(long);
enum { ROUNDS = 40, CALLS = 2000 };
static double times[3][ROUNDS];
static int compare(const void *a, const void *b) {
  return (*(double *)a > *(double *)b) - (*(double *)a < *(double *)b);
}
int main(void) {
  long (*functions[])(long) = {none, on_push, on_ret};
  getchar();
  for (int round = 0; round < ROUNDS; round++)
    for (int which = 0; which < 3; which++) {
      struct timespec start, end;
      clock_gettime(CLOCK_THREAD_CPUTIME_ID, &start);
      for (long call = 0; call < CALLS; call++) functions[which](call);
      clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end);
      times[which][round] =
        ((end.tv_sec - start.tv_sec) * 1e9 + end.tv_nsec - start.tv_nsec) / CALLS;
    }
  const char *names[] = {"none", "push", "ret"};
  for (int which = 0; which < 3; which++) {
    qsort(times[which], ROUNDS, sizeof(double), compare);
    printf("%s: best %.0f ns, median %.0f ns\n", names[which], times[which][0],
           times[which][ROUNDS / 2]);
  }
  return 0;
}
"#;

/// Where in the file the code of a symbol is.
fn site(elf: &::object::File<'_>, name: &str) -> Site {
    let address = elf.symbols().find(|symbol| symbol.name() == Ok(name)).unwrap().address();
    let holds = |segment: &::object::Segment<'_, '_>| {
        (segment.address()..segment.address() + segment.size()).contains(&address)
    };
    let segment = elf.segments().find(holds).unwrap();
    Site { offset: segment.file_range().0 + address - segment.address(), cookie: 0 }
}

#[test]
#[ignore = "a measurement"]
fn what_a_probe_costs_on_a_push_and_on_a_return() {
    let Some(_turn) = turn() else { return };
    let folder = tempfile::tempdir().unwrap();
    let [source, program] = ["program.c", "program"].map(|name| folder.path().join(name));
    fs::write(&source, PROGRAM).unwrap();
    let compiled = Command::new("gcc").arg("-O2").arg("-o").arg(&program).arg(&source).status();
    assert!(compiled.unwrap().success());
    let bytes = fs::read(&program).unwrap();
    let elf = ::object::File::parse(&*bytes).unwrap();
    let go_returns = vec![site(&elf, "on_push"), site(&elf, "on_ret_ret")];
    let cgroup = own_cgroup("returns");
    let targets = vec![Target::Cgroup(cgroup.path().to_path_buf())];
    let config = Config { tls: Tls::Read(Placing::Best), ..only(targets, None, 1 << 20) };
    let kernel = config.build().unwrap();
    let mut library = Library { go_returns, ..Library::default() };
    assert_eq!(kernel.control().probe_tls(&program, &mut library), Outcome::Attached);
    let output = Command::new(&program).stdin(Stdio::null()).output().unwrap();
    print!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success());
}
