# Passed by -DCMAKE_PROJECT_<name>_INCLUDE when packages are built on the ROS wheels: their CMake
# targets export an include folder of the machine they were built on, and CMake refuses a target
# with an include folder that does not exist. At the end of the directory, drop such folders.
function(keep_existing_includes)
  get_property(targets DIRECTORY PROPERTY IMPORTED_TARGETS)
  foreach(target IN LISTS targets)
    get_target_property(folders ${target} INTERFACE_INCLUDE_DIRECTORIES)
    set(existing "")
    foreach(folder IN LISTS folders)
      if(folder MATCHES "^\\$<" OR EXISTS "${folder}")
        list(APPEND existing "${folder}")
      endif()
    endforeach()
    set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${existing}")
  endforeach()
endfunction()
cmake_language(DEFER CALL keep_existing_includes)
