; The driver: walks the table of steps of a program natively, on one worker or on a team of them.
;
; Compiled by driver.py when first used. All fields are 64 bits wide; executor.py and team.py write them, and their names are the same there.
; On errors: a kernel returns a code and stores the offending value in slot 0 of its extents. The walk records both for its worker and
; lowers Call.failed to the step's number; steps after a failed one are skipped, but every barrier is still met, so nobody waits in vain.

; What is the same in every call of a program.
%Program = type {
  i64,  ; 0 steps          address of %Step[]
  i64,  ; 1 n_steps
  i64,  ; 2 arguments      address of i64[]: for each step its (base number, byte offset) pairs, then its extents
  i64,  ; 3 max_buffers    of any step
  i64,  ; 4 max_extents    of any step, slot 0 included
  i64,  ; 5 scratch        bytes from the arena to the scratch of worker 0
  i64,  ; 6 scratch_stride bytes between the scratch of one worker and the next
  i64   ; 7 n_tensors      inputs and outputs
}

; One call of a program. bases: [0 (offsets are addresses: constants), arena, scratch of worker 0, inputs..., outputs...].
%Call = type {
  ptr,  ; 0 program
  ptr,  ; 1 bases
  ptr,  ; 2 failures       %Failure[workers]
  ptr,  ; 3 timestamps     null, or i64[n_steps + 1] for nanoseconds
  i64   ; 4 failed         number of the first step that failed, -1 while none has
}

%Step = type {
  i64,  ; 0 kernel         address
  i64,  ; 1 first          index of its first argument
  i64,  ; 2 n_buffers
  i64,  ; 3 n_extents      without slot 0
  i64   ; 4 flags          1: parallel, 2: workers meet after it
}

%Failure = type { i64, i64, i64 }  ; step, code, value

; Something that opens again and again: who waits for generation g + 1 spins for a while, then sleeps. Now and then a spinning thread
; offers its CPU to others, since the one it waits for may be in need of it.
%Gate = type {
  i64,         ; 0 generation
  i64,         ; 1 sleepers
  i64,         ; 2 spins      how often to look before sleeping
  [5 x i64],
  [128 x i8],  ; 4 mutex      (the largest pthread_mutex_t known is 64 bytes, pthread_cond_t 48)
  [128 x i8]   ; 5 condition
}

; Long-lived workers. Worker 0 is whichever thread dispatches.
%Team = type {
  i64, [7 x i64],  ; 0 busy
  i64,             ; 2 workers
  i64,             ; 3 call       0 tells the workers to end
  [6 x i64],
  i64, [7 x i64],  ; 5 arrived    at the barrier
  %Gate,           ; 7 start
  %Gate            ; 8 barrier
}

declare i32 @pthread_mutex_init(ptr, ptr)
declare i32 @pthread_mutex_lock(ptr)
declare i32 @pthread_mutex_unlock(ptr)
declare i32 @pthread_cond_init(ptr, ptr)
declare i32 @pthread_cond_wait(ptr, ptr)
declare i32 @pthread_cond_broadcast(ptr)
declare i32 @sched_yield()
declare i32 @clock_gettime(i32, ptr)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)

; ---------------------------------------------------------------------------------------------------------------- gates

define internal void @gate_init(ptr %gate, i64 %spins) {
  %limit = getelementptr %Gate, ptr %gate, i64 0, i32 2
  %mutex = getelementptr %Gate, ptr %gate, i64 0, i32 4
  %condition = getelementptr %Gate, ptr %gate, i64 0, i32 5
  store i64 %spins, ptr %limit
  call i32 @pthread_mutex_init(ptr %mutex, ptr null)
  call i32 @pthread_cond_init(ptr %condition, ptr null)
  ret void
}

; Returns once the generation differs from `seen`.
define internal void @gate_wait(ptr %gate, i64 %seen) {
entry:
  %limit = getelementptr %Gate, ptr %gate, i64 0, i32 2
  %spins = load i64, ptr %limit
  br label %spin

spin:
  %i = phi i64 [ 0, %entry ], [ %i.next, %pause ], [ %i.next, %yield ]
  %g0 = load atomic i64, ptr %gate acquire, align 8
  %open0 = icmp ne i64 %g0, %seen
  br i1 %open0, label %through, label %closed

closed:
  %i.next = add i64 %i, 1
  %patient = icmp ult i64 %i, %spins
  br i1 %patient, label %choose, label %sleep

choose:
  %round = and i64 %i.next, 63
  %offer = icmp eq i64 %round, 0
  br i1 %offer, label %yield, label %pause

yield:
  call i32 @sched_yield()
  br label %spin

pause:
  call void @relax()
  br label %spin

through:
  ret void

; The sleeper announces itself before it looks again; gate_open raises the generation before it looks for sleepers (both sequentially
; consistent): one of them sees the other.
sleep:
  %sleepers = getelementptr %Gate, ptr %gate, i64 0, i32 1
  %mutex = getelementptr %Gate, ptr %gate, i64 0, i32 4
  %condition = getelementptr %Gate, ptr %gate, i64 0, i32 5
  call i32 @pthread_mutex_lock(ptr %mutex)
  atomicrmw add ptr %sleepers, i64 1 seq_cst
  br label %look

look:
  %g1 = load atomic i64, ptr %gate seq_cst, align 8
  %open1 = icmp ne i64 %g1, %seen
  br i1 %open1, label %awake, label %wait

wait:
  call i32 @pthread_cond_wait(ptr %condition, ptr %mutex)
  br label %look

awake:
  atomicrmw sub ptr %sleepers, i64 1 seq_cst
  call i32 @pthread_mutex_unlock(ptr %mutex)
  ret void
}

define internal void @gate_open(ptr %gate) {
  atomicrmw add ptr %gate, i64 1 seq_cst
  %sleepers = getelementptr %Gate, ptr %gate, i64 0, i32 1
  %n = load atomic i64, ptr %sleepers seq_cst, align 8
  %none = icmp eq i64 %n, 0
  br i1 %none, label %done, label %wake

wake:
  %mutex = getelementptr %Gate, ptr %gate, i64 0, i32 4
  %condition = getelementptr %Gate, ptr %gate, i64 0, i32 5
  call i32 @pthread_mutex_lock(ptr %mutex)
  call i32 @pthread_cond_broadcast(ptr %condition)
  call i32 @pthread_mutex_unlock(ptr %mutex)
  br label %done

done:
  ret void
}

; All workers of the team meet. The generation is read before arriving: it cannot change until this worker has arrived.
define internal void @meet(ptr %team, i64 %workers) {
  %arrived = getelementptr %Team, ptr %team, i64 0, i32 5
  %barrier = getelementptr %Team, ptr %team, i64 0, i32 8
  %seen = load atomic i64, ptr %barrier monotonic, align 8
  %before = atomicrmw add ptr %arrived, i64 1 acq_rel
  %count = add i64 %before, 1
  %last = icmp eq i64 %count, %workers
  br i1 %last, label %open, label %wait

open:
  store atomic i64 0, ptr %arrived monotonic, align 8
  call void @gate_open(ptr %barrier)
  ret void

wait:
  call void @gate_wait(ptr %barrier, i64 %seen)
  ret void
}

; ---------------------------------------------------------------------------------------------------------------- steps

define internal void @timestamp(ptr %slot) {
  %time = alloca [2 x i64]
  %clock = load i32, ptr @clock
  call i32 @clock_gettime(i32 %clock, ptr %time)
  %nanoseconds.at = getelementptr i64, ptr %time, i64 1
  %seconds = load i64, ptr %time
  %nanoseconds = load i64, ptr %nanoseconds.at
  %scaled = mul i64 %seconds, 1000000000
  %total = add i64 %scaled, %nanoseconds
  store i64 %total, ptr %slot
  ret void
}

; pointers[i] = bases[number i] + offset i, with this worker's part of the scratch.
define internal void @resolve(ptr %pointers, ptr %arguments, i64 %n, ptr %bases, i64 %scratch) {
entry:
  %empty = icmp eq i64 %n, 0
  br i1 %empty, label %done, label %next

next:
  %i = phi i64 [ 0, %entry ], [ %i.next, %next ]
  %pair = getelementptr [2 x i64], ptr %arguments, i64 %i
  %offset.at = getelementptr [2 x i64], ptr %pair, i64 0, i64 1
  %number = load i64, ptr %pair
  %offset = load i64, ptr %offset.at
  %base.at = getelementptr i64, ptr %bases, i64 %number
  %base = load i64, ptr %base.at
  %own = icmp eq i64 %number, 2
  %extra = select i1 %own, i64 %scratch, i64 0
  %partial = add i64 %base, %offset
  %address = add i64 %partial, %extra
  %slot = getelementptr i64, ptr %pointers, i64 %i
  store i64 %address, ptr %slot
  %i.next = add i64 %i, 1
  %more = icmp ult i64 %i.next, %n
  br i1 %more, label %next, label %done

done:
  ret void
}

; Slot 0 is cleared, the rest copied: kernels may write there, and workers must not share it.
define internal void @copy_extents(ptr %extents, ptr %source, i64 %n) {
entry:
  store i64 0, ptr %extents
  %empty = icmp eq i64 %n, 0
  br i1 %empty, label %done, label %next

next:
  %i = phi i64 [ 0, %entry ], [ %i.next, %next ]
  %from = getelementptr i64, ptr %source, i64 %i
  %value = load i64, ptr %from
  %i.next = add i64 %i, 1
  %to = getelementptr i64, ptr %extents, i64 %i.next
  store i64 %value, ptr %to
  %more = icmp ult i64 %i.next, %n
  br i1 %more, label %next, label %done

done:
  ret void
}

; Numba's calling convention: a slot for the value returned, a slot for the exception; the i32 returned is Numba's own status.
define internal i64 @invoke(i64 %address, ptr %pointers, ptr %extents, i64 %worker, i64 %workers) {
  %code.at = alloca i64
  %exception.at = alloca ptr
  store i64 0, ptr %code.at
  store ptr null, ptr %exception.at
  %kernel = inttoptr i64 %address to ptr
  %status = call i32 %kernel(ptr %code.at, ptr %exception.at, ptr %pointers, ptr %extents, i64 %worker, i64 %workers)
  %code = load i64, ptr %code.at
  %fine = icmp eq i32 %status, 0
  %result = select i1 %fine, i64 %code, i64 -1
  ret i64 %result
}

define internal void @fail(ptr %call, i64 %worker, i64 %step, i64 %code, ptr %extents) {
  %failures.at = getelementptr %Call, ptr %call, i64 0, i32 2
  %failures = load ptr, ptr %failures.at
  %failure = getelementptr %Failure, ptr %failures, i64 %worker
  %code.at = getelementptr %Failure, ptr %failure, i64 0, i32 1
  %value.at = getelementptr %Failure, ptr %failure, i64 0, i32 2
  %value = load i64, ptr %extents
  store i64 %step, ptr %failure
  store i64 %code, ptr %code.at
  store i64 %value, ptr %value.at
  %failed.at = getelementptr %Call, ptr %call, i64 0, i32 4
  atomicrmw umin ptr %failed.at, i64 %step seq_cst
  ret void
}

; What each of the workers does for one call.
define internal void @walk(ptr %call, i64 %worker, i64 %workers, ptr %team) {
entry:
  %bases.at = getelementptr %Call, ptr %call, i64 0, i32 1
  %failures.at = getelementptr %Call, ptr %call, i64 0, i32 2
  %timestamps.at = getelementptr %Call, ptr %call, i64 0, i32 3
  %failed.at = getelementptr %Call, ptr %call, i64 0, i32 4
  %program = load ptr, ptr %call
  %n.at = getelementptr %Program, ptr %program, i64 0, i32 1
  %arguments.at = getelementptr %Program, ptr %program, i64 0, i32 2
  %max.buffers.at = getelementptr %Program, ptr %program, i64 0, i32 3
  %max.extents.at = getelementptr %Program, ptr %program, i64 0, i32 4
  %stride.at = getelementptr %Program, ptr %program, i64 0, i32 6
  %failures = load ptr, ptr %failures.at
  %failure = getelementptr %Failure, ptr %failures, i64 %worker
  store i64 -1, ptr %failure
  %steps = load ptr, ptr %program
  %n = load i64, ptr %n.at
  %arguments = load ptr, ptr %arguments.at
  %bases = load ptr, ptr %bases.at
  %stride = load i64, ptr %stride.at
  %max.buffers = load i64, ptr %max.buffers.at
  %max.extents = load i64, ptr %max.extents.at
  %timestamps = load ptr, ptr %timestamps.at
  %scratch = mul i64 %stride, %worker
  %pointers = alloca i64, i64 %max.buffers
  %extents = alloca i64, i64 %max.extents
  %first = icmp eq i64 %worker, 0
  %alone = icmp eq i64 %workers, 1
  %timing = icmp ne ptr %timestamps, null
  %timed = and i1 %first, %timing
  br i1 %timed, label %begin, label %loop

begin:
  call void @timestamp(ptr %timestamps)
  br label %loop

loop:
  %s = phi i64 [ 0, %entry ], [ 0, %begin ], [ %s.next, %advance ]
  %more = icmp ult i64 %s, %n
  br i1 %more, label %look, label %done

look:
  %s.next = add i64 %s, 1
  %step = getelementptr %Step, ptr %steps, i64 %s
  %flags.at = getelementptr %Step, ptr %step, i64 0, i32 4
  %flags = load i64, ptr %flags.at
  %parallel.bit = and i64 %flags, 1
  %parallel = icmp ne i64 %parallel.bit, 0
  %mine = or i1 %parallel, %first
  %failed = load atomic i64, ptr %failed.at monotonic, align 8
  %sound = icmp uge i64 %failed, %s
  %run = and i1 %mine, %sound
  br i1 %run, label %compute, label %after

compute:
  %first.at = getelementptr %Step, ptr %step, i64 0, i32 1
  %n.buffers.at = getelementptr %Step, ptr %step, i64 0, i32 2
  %n.extents.at = getelementptr %Step, ptr %step, i64 0, i32 3
  %kernel = load i64, ptr %step
  %first.argument = load i64, ptr %first.at
  %n.buffers = load i64, ptr %n.buffers.at
  %n.extents = load i64, ptr %n.extents.at
  %buffer.arguments = getelementptr i64, ptr %arguments, i64 %first.argument
  %extent.arguments = getelementptr [2 x i64], ptr %buffer.arguments, i64 %n.buffers
  call void @resolve(ptr %pointers, ptr %buffer.arguments, i64 %n.buffers, ptr %bases, i64 %scratch)
  call void @copy_extents(ptr %extents, ptr %extent.arguments, i64 %n.extents)
  %crew = select i1 %parallel, i64 %workers, i64 1
  %code = call i64 @invoke(i64 %kernel, ptr %pointers, ptr %extents, i64 %worker, i64 %crew)
  %fine = icmp eq i64 %code, 0
  br i1 %fine, label %after, label %failed.here

failed.here:
  call void @fail(ptr %call, i64 %worker, i64 %s, i64 %code, ptr %extents)
  br label %after

after:
  %barrier.bit = and i64 %flags, 2
  %open = icmp eq i64 %barrier.bit, 0
  %skip = or i1 %alone, %open
  br i1 %skip, label %clocked, label %barrier

barrier:
  call void @meet(ptr %team, i64 %workers)
  br label %clocked

clocked:
  br i1 %timed, label %stamp, label %advance

stamp:
  %slot = getelementptr i64, ptr %timestamps, i64 %s.next
  call void @timestamp(ptr %slot)
  br label %advance

advance:
  br label %loop

done:
  ret void
}

; ------------------------------------------------------------------------------------------------------- entry points

; Runs a call on the team, or on this thread alone when there is no team or it is busy. The last step has its barrier flag set, so that
; no other worker is still in the walk when this returns.
define internal void @dispatch(ptr %call, ptr %team) {
entry:
  %none = icmp eq ptr %team, null
  br i1 %none, label %alone, label %claim

claim:
  %claimed = cmpxchg ptr %team, i64 0, i64 1 acquire monotonic
  %won = extractvalue { i64, i1 } %claimed, 1
  br i1 %won, label %together, label %alone

together:
  %workers.at = getelementptr %Team, ptr %team, i64 0, i32 2
  %call.at = getelementptr %Team, ptr %team, i64 0, i32 3
  %start = getelementptr %Team, ptr %team, i64 0, i32 7
  %workers = load i64, ptr %workers.at
  store ptr %call, ptr %call.at
  call void @gate_open(ptr %start)
  call void @walk(ptr %call, i64 0, i64 %workers, ptr %team)
  store atomic i64 0, ptr %team release, align 8
  ret void

alone:
  call void @walk(ptr %call, i64 0, i64 1, ptr null)
  ret void
}

; Runs `program` on `tensors` (addresses of its inputs, then of its outputs) in `memory` (arena and scratch), on `team` or, where that is
; null, on this thread. Returns the number of the first step that failed, and what it said in `failure`; -1 when none failed.
define i64 @loopnest_run(ptr %program, ptr %tensors, ptr %memory, ptr %team, ptr %timestamps, ptr %failure) {
entry:
  %call = alloca %Call
  %alone = icmp eq ptr %team, null
  br i1 %alone, label %prepare, label %count

count:
  %workers.at = getelementptr %Team, ptr %team, i64 0, i32 2
  %team.workers = load i64, ptr %workers.at
  br label %prepare

prepare:
  %workers = phi i64 [ 1, %entry ], [ %team.workers, %count ]
  %scratch.at = getelementptr %Program, ptr %program, i64 0, i32 5
  %n.at = getelementptr %Program, ptr %program, i64 0, i32 7
  %scratch.offset = load i64, ptr %scratch.at
  %n = load i64, ptr %n.at
  %count.bases = add i64 %n, 3
  %bases = alloca i64, i64 %count.bases
  %failures = alloca %Failure, i64 %workers
  %arena.slot = getelementptr i64, ptr %bases, i64 1
  %scratch.slot = getelementptr i64, ptr %bases, i64 2
  %tensor.slots = getelementptr i64, ptr %bases, i64 3
  %nbytes = mul i64 %n, 8
  %arena = ptrtoint ptr %memory to i64
  %scratch = add i64 %arena, %scratch.offset
  store i64 0, ptr %bases
  store i64 %arena, ptr %arena.slot
  store i64 %scratch, ptr %scratch.slot
  call void @llvm.memcpy.p0.p0.i64(ptr %tensor.slots, ptr %tensors, i64 %nbytes, i1 false)
  %bases.at = getelementptr %Call, ptr %call, i64 0, i32 1
  %failures.at = getelementptr %Call, ptr %call, i64 0, i32 2
  %timestamps.at = getelementptr %Call, ptr %call, i64 0, i32 3
  %failed.at = getelementptr %Call, ptr %call, i64 0, i32 4
  store ptr %program, ptr %call
  store ptr %bases, ptr %bases.at
  store ptr %failures, ptr %failures.at
  store ptr %timestamps, ptr %timestamps.at
  store i64 -1, ptr %failed.at
  call void @dispatch(ptr %call, ptr %team)
  %failed = load atomic i64, ptr %failed.at monotonic, align 8
  %fine = icmp eq i64 %failed, -1
  br i1 %fine, label %done, label %search

search:
  %w = phi i64 [ 0, %prepare ], [ %w.next, %search ]
  %record = getelementptr %Failure, ptr %failures, i64 %w
  %step = load i64, ptr %record
  %w.next = add i64 %w, 1
  %found = icmp eq i64 %step, %failed
  br i1 %found, label %report, label %search

report:
  call void @llvm.memcpy.p0.p0.i64(ptr %failure, ptr %record, i64 24, i1 false)
  br label %done

done:
  ret i64 %failed
}

; Prepares zeroed memory as a team.
define void @loopnest_team_init(ptr %team, i64 %workers, i64 %idle.spins, i64 %barrier.spins) {
  %workers.at = getelementptr %Team, ptr %team, i64 0, i32 2
  %start = getelementptr %Team, ptr %team, i64 0, i32 7
  %barrier = getelementptr %Team, ptr %team, i64 0, i32 8
  store i64 %workers, ptr %workers.at
  call void @gate_init(ptr %start, i64 %idle.spins)
  call void @gate_init(ptr %barrier, i64 %barrier.spins)
  ret void
}

; The life of one worker thread: returns when the team is stopped.
define void @loopnest_team_work(ptr %team, i64 %worker) {
entry:
  %workers.at = getelementptr %Team, ptr %team, i64 0, i32 2
  %call.at = getelementptr %Team, ptr %team, i64 0, i32 3
  %start = getelementptr %Team, ptr %team, i64 0, i32 7
  %workers = load i64, ptr %workers.at
  br label %idle

idle:
  %seen = phi i64 [ 0, %entry ], [ %seen.next, %work ]
  call void @gate_wait(ptr %start, i64 %seen)
  %seen.next = add i64 %seen, 1
  %call = load ptr, ptr %call.at
  %stop = icmp eq ptr %call, null
  br i1 %stop, label %done, label %work

work:
  call void @walk(ptr %call, i64 %worker, i64 %workers, ptr %team)
  br label %idle

done:
  ret void
}

; Tells the workers to end, and leaves the team busy for good. Returns 0 when the team is busy: try again.
define i64 @loopnest_team_stop(ptr %team) {
  %claimed = cmpxchg ptr %team, i64 0, i64 1 acquire monotonic
  %won = extractvalue { i64, i1 } %claimed, 1
  br i1 %won, label %stop, label %busy

stop:
  %call.at = getelementptr %Team, ptr %team, i64 0, i32 3
  %start = getelementptr %Team, ptr %team, i64 0, i32 7
  store ptr null, ptr %call.at
  call void @gate_open(ptr %start)
  ret i64 1

busy:
  ret i64 0
}

; `n` pauses, to learn how long one takes on this machine.
define void @loopnest_spin(i64 %n) {
entry:
  br label %next

next:
  %i = phi i64 [ 0, %entry ], [ %i.next, %next ]
  call void @relax()
  %i.next = add i64 %i, 1
  %more = icmp ult i64 %i.next, %n
  br i1 %more, label %next, label %done

done:
  ret void
}

define i64 @loopnest_team_nbytes() {
  %end = getelementptr %Team, ptr null, i64 1
  %nbytes = ptrtoint ptr %end to i64
  ret i64 %nbytes
}
