; From Python into the driver and back: a C function that CPython calls without building anything (METH_FASTCALL).
;
; Appended to driver.ll by driver.py where the interpreter is CPython, which replaces {object} by the size of an object's header and
; tells LLVM where numpy.ndarray and None are. entry.py writes the records, and its names are the same there.

; A NumPy array: the fields that NumPy's C ABI has kept since 1.7 (ndarraytypes.h); entry.py looks whether they are there.
%Array = type {
  [{object} x i8],  ; the last field is the type
  ptr,  ; 1 data
  i32,  ; 2 nd
  ptr,  ; 3 dimensions
  ptr,  ; 4 strides
  ptr,  ; 5 base
  ptr,  ; 6 descr
  i32   ; 7 flags      1: C-contiguous, 0x100: aligned
}

; What one argument must be.
%Slot = type {
  ptr,  ; 0 descr
  i64,  ; 1 nd
  ptr,  ; 2 dimensions   i64[nd]
  i64,  ; 3 target       its place among the program's tensors, -1 when the program does not read it
  ptr,  ; 4 value        null, or the bytes that it must hold
  i64   ; 5 nbytes       of the value
}

%Entry = type {
  ptr,  ; 0 program      %Program
  ptr,  ; 1 team         address of the address of the team, 0 there until it runs; null for one worker
  i64,  ; 2 n_slots
  ptr,  ; 3 slots        %Slot[]
  i64,  ; 4 n_inputs     of the program
  i64,  ; 5 n_outputs
  ptr,  ; 6 outputs      for each output a callable and its tuple of arguments, which make a fresh array; null when they are bound
  ptr,  ; 7 tensors      addresses of all tensors when they are bound
  i64,  ; 8 bare         1: one output is returned as it is, not in a tuple
  i64,  ; 9 nbytes       of a workspace
  ptr,  ; 10 free        the list of free workspaces, uint8 arrays
  ptr,  ; 11 pop         its method
  ptr,  ; 12 make        callable that makes a workspace
  ptr   ; 13 fail        callable of step, code and value that raises
}

@fields = internal constant [4 x i8] c"LLL\00"

@loopnest_ndarray = external global i8
@loopnest_none = external global i8

declare ptr @PyTuple_GetItem(ptr, i64)
declare ptr @PyTuple_New(i64)
declare i32 @PyTuple_SetItem(ptr, i64, ptr)
declare ptr @PyObject_CallObject(ptr, ptr)
declare ptr @PyObject_CallFunction(ptr, ptr, ...)
declare i32 @PyList_Append(ptr, ptr)
declare void @PyErr_Clear()
declare void @Py_IncRef(ptr)
declare void @Py_DecRef(ptr)
declare ptr @PyEval_SaveThread()
declare void @PyEval_RestoreThread(ptr)

define internal ptr @data_of(ptr %array) {
  %at = getelementptr %Array, ptr %array, i64 0, i32 1
  %data = load ptr, ptr %at
  ret ptr %data
}

define internal i1 @same_words(ptr %a, ptr %b, i64 %n) {
entry:
  br label %next

next:
  %i = phi i64 [ 0, %entry ], [ %i.next, %compare ]
  %more = icmp ult i64 %i, %n
  br i1 %more, label %compare, label %same

compare:
  %a.at = getelementptr i64, ptr %a, i64 %i
  %b.at = getelementptr i64, ptr %b, i64 %i
  %x = load i64, ptr %a.at
  %y = load i64, ptr %b.at
  %i.next = add i64 %i, 1
  %equal = icmp eq i64 %x, %y
  br i1 %equal, label %next, label %differ

same:
  ret i1 true

differ:
  ret i1 false
}

define internal i1 @same_bytes(ptr %a, ptr %b, i64 %n) {
entry:
  br label %next

next:
  %i = phi i64 [ 0, %entry ], [ %i.next, %compare ]
  %more = icmp ult i64 %i, %n
  br i1 %more, label %compare, label %same

compare:
  %a.at = getelementptr i8, ptr %a, i64 %i
  %b.at = getelementptr i8, ptr %b, i64 %i
  %x = load i8, ptr %a.at
  %y = load i8, ptr %b.at
  %i.next = add i64 %i, 1
  %equal = icmp eq i8 %x, %y
  br i1 %equal, label %next, label %differ

same:
  ret i1 true

differ:
  ret i1 false
}

; Whether `object` is an ndarray (of no subclass), C-contiguous and aligned, with the dtype object, shape and value of the slot.
define internal i1 @fits(ptr %object, ptr %slot) {
entry:
  %type.at = getelementptr i8, ptr %object, i64 sub (i64 {object}, i64 8)
  %type = load ptr, ptr %type.at
  %array = icmp eq ptr %type, @loopnest_ndarray
  br i1 %array, label %describe, label %no

describe:
  %descr.at = getelementptr %Array, ptr %object, i64 0, i32 6
  %nd.at = getelementptr %Array, ptr %object, i64 0, i32 2
  %flags.at = getelementptr %Array, ptr %object, i64 0, i32 7
  %slot.nd.at = getelementptr %Slot, ptr %slot, i64 0, i32 1
  %descr = load ptr, ptr %descr.at
  %slot.descr = load ptr, ptr %slot
  %nd.narrow = load i32, ptr %nd.at
  %nd = sext i32 %nd.narrow to i64
  %slot.nd = load i64, ptr %slot.nd.at
  %flags = load i32, ptr %flags.at
  %simple = and i32 %flags, 257
  %dtype.fits = icmp eq ptr %descr, %slot.descr
  %nd.fits = icmp eq i64 %nd, %slot.nd
  %flags.fit = icmp eq i32 %simple, 257
  %some = and i1 %dtype.fits, %nd.fits
  %all = and i1 %some, %flags.fit
  br i1 %all, label %measure, label %no

measure:
  %dimensions.at = getelementptr %Array, ptr %object, i64 0, i32 3
  %slot.dimensions.at = getelementptr %Slot, ptr %slot, i64 0, i32 2
  %value.at = getelementptr %Slot, ptr %slot, i64 0, i32 4
  %dimensions = load ptr, ptr %dimensions.at
  %slot.dimensions = load ptr, ptr %slot.dimensions.at
  %value = load ptr, ptr %value.at
  %shape.fits = call i1 @same_words(ptr %dimensions, ptr %slot.dimensions, i64 %nd)
  %any = icmp eq ptr %value, null
  br i1 %shape.fits, label %shaped, label %no

shaped:
  br i1 %any, label %yes, label %read

read:
  %nbytes.at = getelementptr %Slot, ptr %slot, i64 0, i32 5
  %nbytes = load i64, ptr %nbytes.at
  %data = call ptr @data_of(ptr %object)
  %value.fits = call i1 @same_bytes(ptr %data, ptr %value, i64 %nbytes)
  ret i1 %value.fits

yes:
  ret i1 true

no:
  ret i1 false
}

; Fills in the addresses of the inputs; false when an argument does not fit.
define internal i1 @take_arguments(ptr %entry, ptr %arguments, i64 %n, ptr %tensors) {
begin:
  %n.at = getelementptr %Entry, ptr %entry, i64 0, i32 2
  %slots.at = getelementptr %Entry, ptr %entry, i64 0, i32 3
  %n.slots = load i64, ptr %n.at
  %slots = load ptr, ptr %slots.at
  %complete = icmp eq i64 %n, %n.slots
  br i1 %complete, label %next, label %no

next:
  %i = phi i64 [ 0, %begin ], [ %i.next, %keep ], [ %i.next, %look ]
  %more = icmp ult i64 %i, %n
  br i1 %more, label %check, label %yes

check:
  %argument.at = getelementptr ptr, ptr %arguments, i64 %i
  %argument = load ptr, ptr %argument.at
  %slot = getelementptr %Slot, ptr %slots, i64 %i
  %i.next = add i64 %i, 1
  %fits = call i1 @fits(ptr %argument, ptr %slot)
  br i1 %fits, label %look, label %no

look:
  %target.at = getelementptr %Slot, ptr %slot, i64 0, i32 3
  %target = load i64, ptr %target.at
  %read = icmp sge i64 %target, 0
  br i1 %read, label %keep, label %next

keep:
  %tensor = getelementptr ptr, ptr %tensors, i64 %target
  %data = call ptr @data_of(ptr %argument)
  store ptr %data, ptr %tensor
  br label %next

yes:
  ret i1 true

no:
  ret i1 false
}

; A workspace of at least `nbytes`, a new reference; null with an exception set where memory is short.
define internal ptr @take_workspace(ptr %entry) {
  %nbytes.at = getelementptr %Entry, ptr %entry, i64 0, i32 9
  %pop.at = getelementptr %Entry, ptr %entry, i64 0, i32 11
  %make.at = getelementptr %Entry, ptr %entry, i64 0, i32 12
  %nbytes = load i64, ptr %nbytes.at
  %pop = load ptr, ptr %pop.at
  %make = load ptr, ptr %make.at
  %found = call ptr @PyObject_CallObject(ptr %pop, ptr null)
  %none = icmp eq ptr %found, null
  br i1 %none, label %empty, label %measure

empty:  ; all are in use
  call void @PyErr_Clear()
  br label %fresh

measure:
  %dimensions.at = getelementptr %Array, ptr %found, i64 0, i32 3
  %dimensions = load ptr, ptr %dimensions.at
  %has = load i64, ptr %dimensions
  %enough = icmp uge i64 %has, %nbytes
  br i1 %enough, label %done, label %small

small:
  call void @Py_DecRef(ptr %found)
  br label %fresh

fresh:
  %made = call ptr @PyObject_CallObject(ptr %make, ptr null)
  ret ptr %made

done:
  ret ptr %found
}

; Runs the program on `tensors`. Returns 0, or 1 with an exception set.
define internal i1 @perform(ptr %entry, ptr %tensors, ptr %team) {
  %failure = alloca %Failure
  %free.at = getelementptr %Entry, ptr %entry, i64 0, i32 10
  %program = load ptr, ptr %entry
  %free = load ptr, ptr %free.at
  %workspace = call ptr @take_workspace(ptr %entry)
  %none = icmp eq ptr %workspace, null
  br i1 %none, label %bad, label %work

work:
  %memory = call ptr @data_of(ptr %workspace)
  %thread = call ptr @PyEval_SaveThread()
  %failed = call i64 @loopnest_run(ptr %program, ptr %tensors, ptr %memory, ptr %team, ptr null, ptr %failure)
  call void @PyEval_RestoreThread(ptr %thread)
  %kept = call i32 @PyList_Append(ptr %free, ptr %workspace)
  call void @Py_DecRef(ptr %workspace)
  %lost = icmp ne i32 %kept, 0
  br i1 %lost, label %bad, label %judge

judge:
  %fine = icmp eq i64 %failed, -1
  br i1 %fine, label %good, label %fail

fail:
  %fail.at = getelementptr %Entry, ptr %entry, i64 0, i32 13
  %code.at = getelementptr %Failure, ptr %failure, i64 0, i32 1
  %value.at = getelementptr %Failure, ptr %failure, i64 0, i32 2
  %raise = load ptr, ptr %fail.at
  %code = load i64, ptr %code.at
  %value = load i64, ptr %value.at
  %never = call ptr (ptr, ptr, ...) @PyObject_CallFunction(ptr %raise, ptr @fields, i64 %failed, i64 %code, i64 %value)
  br label %bad

good:
  ret i1 false

bad:
  ret i1 true
}

; Fresh arrays for the outputs, in a tuple, and their addresses. Null with an exception set where memory is short.
define internal ptr @make_outputs(ptr %entry, ptr %tensors) {
begin:
  %n.at = getelementptr %Entry, ptr %entry, i64 0, i32 5
  %outputs.at = getelementptr %Entry, ptr %entry, i64 0, i32 6
  %n = load i64, ptr %n.at
  %outputs = load ptr, ptr %outputs.at
  %results = call ptr @PyTuple_New(i64 %n)
  %none = icmp eq ptr %results, null
  br i1 %none, label %short, label %next

next:
  %i = phi i64 [ 0, %begin ], [ %i.next, %keep ]
  %more = icmp ult i64 %i, %n
  br i1 %more, label %make, label %done

make:
  %pair = getelementptr [2 x ptr], ptr %outputs, i64 %i
  %arguments.at = getelementptr [2 x ptr], ptr %pair, i64 0, i64 1
  %callable = load ptr, ptr %pair
  %arguments = load ptr, ptr %arguments.at
  %i.next = add i64 %i, 1
  %array = call ptr @PyObject_CallObject(ptr %callable, ptr %arguments)
  %failed = icmp eq ptr %array, null
  br i1 %failed, label %drop, label %keep

keep:
  %tensor = getelementptr ptr, ptr %tensors, i64 %i
  %data = call ptr @data_of(ptr %array)
  store ptr %data, ptr %tensor
  %ignored = call i32 @PyTuple_SetItem(ptr %results, i64 %i, ptr %array)
  br label %next

done:
  ret ptr %results

drop:
  call void @Py_DecRef(ptr %results)
  ret ptr null

short:
  ret ptr null
}

; The team to run on (null: this thread alone), and whether it is there.
define internal { ptr, i1 } @team_for(ptr %entry) {
  %cell.at = getelementptr %Entry, ptr %entry, i64 0, i32 1
  %cell = load ptr, ptr %cell.at
  %alone = icmp eq ptr %cell, null
  br i1 %alone, label %nobody, label %look

nobody:
  ret { ptr, i1 } { ptr null, i1 true }

look:
  %team = load atomic ptr, ptr %cell acquire, align 8
  %ready = icmp ne ptr %team, null
  %partial = insertvalue { ptr, i1 } undef, ptr %team, 0
  %result = insertvalue { ptr, i1 } %partial, i1 %ready, 1
  ret { ptr, i1 } %result
}

define internal ptr @none() {
  call void @Py_IncRef(ptr @loopnest_none)
  ret ptr @loopnest_none
}

define internal ptr @entry_of(ptr %self) {
  %record = call ptr @PyTuple_GetItem(ptr %self, i64 0)
  %entry = call ptr @data_of(ptr %record)
  ret ptr %entry
}

; The outputs for positional arguments; None, and nothing done, where an argument does not fit or the team has yet to start.
define ptr @loopnest_enter(ptr %self, ptr %arguments, i64 %n) {
  %entry = call ptr @entry_of(ptr %self)
  %n.inputs.at = getelementptr %Entry, ptr %entry, i64 0, i32 4
  %n.outputs.at = getelementptr %Entry, ptr %entry, i64 0, i32 5
  %n.inputs = load i64, ptr %n.inputs.at
  %n.outputs = load i64, ptr %n.outputs.at
  %count = add i64 %n.inputs, %n.outputs
  %tensors = alloca ptr, i64 %count
  %output.tensors = getelementptr ptr, ptr %tensors, i64 %n.inputs
  %pair = call { ptr, i1 } @team_for(ptr %entry)
  %team = extractvalue { ptr, i1 } %pair, 0
  %ready = extractvalue { ptr, i1 } %pair, 1
  br i1 %ready, label %take, label %decline

take:
  %fits = call i1 @take_arguments(ptr %entry, ptr %arguments, i64 %n, ptr %tensors)
  br i1 %fits, label %make, label %decline

decline:
  %none = call ptr @none()
  ret ptr %none

make:
  %results = call ptr @make_outputs(ptr %entry, ptr %output.tensors)
  %short = icmp eq ptr %results, null
  br i1 %short, label %bad, label %run

run:
  %failed = call i1 @perform(ptr %entry, ptr %tensors, ptr %team)
  br i1 %failed, label %drop, label %return

drop:
  call void @Py_DecRef(ptr %results)
  br label %bad

bad:
  ret ptr null

return:
  %bare.at = getelementptr %Entry, ptr %entry, i64 0, i32 8
  %bare = load i64, ptr %bare.at
  %one = icmp eq i64 %bare, 1
  br i1 %one, label %unwrap, label %whole

unwrap:
  %result = call ptr @PyTuple_GetItem(ptr %results, i64 0)
  call void @Py_IncRef(ptr %result)
  call void @Py_DecRef(ptr %results)
  ret ptr %result

whole:
  ret ptr %results
}

; Runs on the tensors that are bound. Returns true; None, and nothing done, where the team has yet to start.
define ptr @loopnest_rerun(ptr %self, ptr %arguments, i64 %n) {
  %entry = call ptr @entry_of(ptr %self)
  %tensors.at = getelementptr %Entry, ptr %entry, i64 0, i32 7
  %tensors = load ptr, ptr %tensors.at
  %pair = call { ptr, i1 } @team_for(ptr %entry)
  %team = extractvalue { ptr, i1 } %pair, 0
  %ready = extractvalue { ptr, i1 } %pair, 1
  br i1 %ready, label %run, label %decline

decline:
  %none = call ptr @none()
  ret ptr %none

run:
  %failed = call i1 @perform(ptr %entry, ptr %tensors, ptr %team)
  br i1 %failed, label %bad, label %done

bad:
  ret ptr null

done:
  call void @Py_IncRef(ptr %self)
  ret ptr %self
}
